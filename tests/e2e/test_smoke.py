def test_smoke(server, alice, bob):
    room = alice.create_room(preset="private_chat", invite=[bob.user_id], name="x")
    bob.sync_until(lambda: True)
    alice.sync()
    bob.join(room)
    alice.send(room, "hi")
    bob.sync_until(lambda: bob.bodies(room) == ["hi"])
    for i in range(30): alice.send(room, str(i))
    alice.sync_until(lambda: len(alice.bodies(room)) == 31)
    bob.sync_until(lambda: len(bob.bodies(room)) == 31)
    print(alice.gaps, bob.gaps, bob.messages(room, "f", limit=7)[-1])
    assert [e["event_id"] for e in alice.messages(room, "b")] == [e["event_id"] for e in alice.messages(room, "f")][::-1]
