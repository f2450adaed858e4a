// An afternoon of three people with matrix-js-sdk. What one of them sees of what another did is printed, a line a step.

import { RoomHierarchy, end, inRoom, logIn, refusal, register } from "./people.mjs";
import { say, shown, tell, texts, threadOf, until } from "./people.mjs";

async function main() {
    const [ada, bo, cy] = await Promise.all(["ada", "bo", "cy"].map(register));

    const roomId = await meet(ada, bo);
    await edit(ada, bo, roomId);
    await react(ada, bo, roomId);
    const root = await thread(ada, bo, roomId);
    await read(ada, bo, roomId, root);
    await type(ada, bo, roomId);
    await findThreadsLater(ada, cy, roomId);
    await knock(ada, cy);
    await walkThroughSpace(ada, bo);
    await find(ada, bo);
    await scrollBack(ada, cy);
    await upgrade(ada, bo);
    await tag(bo, roomId);
    await bePutOut(ada, bo, roomId);
}

async function meet(ada, bo) {
    const { room_id: roomId } = await ada.createRoom({ name: "Garden", topic: "Peas", invite: [bo.getUserId()] });
    const invitation = await until("bo is invited", () => inRoom(bo, roomId, "invite"));
    const inviter = invitation.getMember(bo.getUserId()).events.member.getSender();
    tell("invited", { name: invitation.name, inviter });
    await bo.joinRoom(roomId);
    const room = await until("bo is in the room", () => inRoom(bo, roomId));
    await until("ada sees bo come in", () => ada.getRoom(roomId).getMember(bo.getUserId())?.membership === "join");
    const words = [];
    for (const [speaker, listener, body] of [[ada, bo, "peas?"], [bo, ada, "peas!"]]) {
        const eventId = await say(speaker, roomId, body);
        const heard = await until(`${body} is heard`, () => shown(listener, roomId, eventId));
        words.push([heard.getSender(), heard.getContent().body]);
    }
    const topic = room.currentState.getStateEvents("m.room.topic", "").getContent().topic;
    tell("met", { name: room.name, topic, members: room.getJoinedMemberCount(), words });
    return roomId;
}

async function edit(ada, bo, roomId) {
    const eventId = await say(ada, roomId, "five rows");
    const editId = (
        await ada.sendMessage(roomId, {
            "msgtype": "m.text",
            "body": "* six rows",
            "m.new_content": { msgtype: "m.text", body: "six rows" },
            "m.relates_to": { rel_type: "m.replace", event_id: eventId },
        })
    ).event_id;
    const event = await until("the message", () => shown(bo, roomId, eventId));
    await until("the edit", () => event.replacingEventId());
    const fetched = await bo.fetchRoomEvent(roomId, eventId);
    tell("edited", {
        body: event.getContent().body,
        original: event.getOriginalContent().body,
        isTheEdit: event.replacingEventId() === editId,
        bundled: fetched.unsigned["m.relations"]["m.replace"].content["m.new_content"].body,
        isBundledEdit: fetched.unsigned["m.relations"]["m.replace"].event_id === editId,
    });
    await ada.redactEvent(roomId, eventId, undefined, { reason: "seven" });
    await until("the redaction", () => event.isRedacted());
    const because = event.getRedactionEvent();
    tell("redacted", { content: event.getContent(), by: because.sender, reason: because.content.reason });
}

async function react(ada, bo, roomId) {
    const eventId = await say(ada, roomId, "who waters them?");
    await until("the question", () => shown(bo, roomId, eventId));
    const relation = { rel_type: "m.annotation", event_id: eventId, key: "🚿" };
    const reactions = [];
    for (const person of [bo, ada]) {
        reactions.push((await person.sendEvent(roomId, "m.reaction", { "m.relates_to": relation })).event_id);
    }
    const aggregated = () => {
        const found = ada.getRoom(roomId).relations.getChildEventsForEvent(eventId, "m.annotation", "m.reaction");
        return (found?.getSortedAnnotationsByKey() ?? [])
            .map(([key, events]) => [key, [...events].map((event) => event.getSender()).sort()])
            .filter(([, senders]) => senders.length);
    };
    await until("both reactions", () => aggregated()[0]?.[1].length === 2);
    tell("reacted", { aggregated: aggregated() });
    await bo.redactEvent(roomId, reactions[0]);
    await until("one reaction less", () => aggregated()[0]?.[1].length === 1);
    const { events } = await ada.relations(roomId, eventId, "m.annotation", "m.reaction");
    tell("reaction redacted", { aggregated: aggregated(), served: events.map((event) => event.getSender()) });
}

async function thread(ada, bo, roomId) {
    const root = await say(ada, roomId, "slugs");
    const first = await until("the root", () => shown(bo, roomId, root));
    bo.getRoom(roomId).createThread(root, first, [], false); // as clients do when somebody wants to reply
    await threadOf(bo, roomId, root, 0);
    // The library mixes up threads in which somebody speaks before they are loaded.
    const replies = [[bo, "beer"], [bo, "ducks"], [ada, "hedgehogs"]];
    for (const [count, [speaker, body]] of replies.entries()) {
        await say(speaker, roomId, body, root);
        for (const person of [ada, bo]) await threadOf(person, roomId, root, count + 1);
    }
    for (const [name, person] of [["ada", ada], ["bo", bo]]) {
        const seen = await threadOf(person, roomId, root, 3);
        const served = (await person.fetchRoomEvent(roomId, root)).unsigned["m.relations"]["m.thread"];
        tell(`thread of ${name}`, {
            replies: texts(seen.events),
            served: [served.count, served.current_user_participated, served.latest_event.content.body],
            mainTimeline: texts(person.getRoom(roomId).getLiveTimeline().getEvents()).slice(-1),
        });
    }
    const change = { msgtype: "m.text", body: "ducks, two of them" };
    const ducks = bo.getRoom(roomId).getThread(root).events.find((event) => event.getContent().body === "ducks");
    await bo.sendMessage(roomId, root, {
        ...change,
        "m.new_content": change,
        "m.relates_to": { rel_type: "m.replace", event_id: ducks.getId() },
    });
    const relation = { rel_type: "m.annotation", event_id: ducks.getId(), key: "🦆" };
    await ada.sendEvent(roomId, "m.reaction", { "m.relates_to": relation });
    const changed = await until("the edit in the thread", () =>
        texts(ada.getRoom(roomId).getThread(root).events).find((body) => body.endsWith("two of them")),
    );
    tell("thread edited", { changed });
    return root;
}

async function read(ada, bo, roomId, root) {
    const [room, other] = [ada, bo].map((person) => person.getRoom(roomId));
    const replyId = await say(ada, roomId, "and toads", root);
    const reply = await until("the reply", () => other.getThread(root).findEventById(replyId));
    const receipt = () => room.getThread(root).getReadReceiptForUserId(bo.getUserId(), true);
    const unread = receipt();
    await bo.sendReadReceipt(reply);
    await until("the thread is read", () => receipt()?.eventId === replyId);
    const readers = room.getThread(root).getUsersReadUpTo(room.getThread(root).findEventById(replyId));
    const mainId = await say(ada, roomId, "that is settled");
    const main = await until("the last word", () => shown(bo, roomId, mainId));
    const before = room.hasUserReadEvent(bo.getUserId(), mainId);
    await bo.setRoomReadMarkers(roomId, mainId, main);
    await until("the room is read", () => room.getUsersReadUpTo(shown(ada, roomId, mainId)).includes(bo.getUserId()));
    await until("the marker", () => other.getAccountData("m.fully_read")?.getContent().event_id === mainId);
    tell("read", {
        unread,
        threadReaders: readers.includes(bo.getUserId()),
        ofTheThread: receipt().data.thread_id === root,
        before,
        after: room.hasUserReadEvent(bo.getUserId(), mainId),
        markerOfTheOther: room.getAccountData("m.fully_read") ?? null,
    });
    const secretId = await say(ada, roomId, "psst");
    await bo.sendReadReceipt(await until("the secret", () => shown(bo, roomId, secretId)), "m.read.private");
    await until("bo's private receipt", () => {
        return other.getReadReceiptForUserId(bo.getUserId(), true, "m.read.private")?.eventId === secretId;
    });
    await say(bo, roomId, "what?");
    await until("the answer", () => texts(room.getLiveTimeline().getEvents()).at(-1) === "what?");
    tell("read privately", { seenByTheOther: room.getReadReceiptForUserId(bo.getUserId(), true, "m.read.private") });
}

async function type(ada, bo, roomId) {
    const writer = () => ada.getRoom(roomId).getMember(bo.getUserId());
    await bo.sendTyping(roomId, true, 20_000);
    await until("bo types", () => writer().typing);
    const typing = ada.getRoom(roomId).currentState.getMembers().filter((member) => member.typing);
    await bo.sendTyping(roomId, false, 0);
    await until("bo stops", () => !writer().typing);
    tell("typed", { typing: typing.map((member) => member.userId), after: writer().typing });
}

async function findThreadsLater(ada, cy, roomId) {
    // So much that the first sync tells nothing of the thread.
    for (let row = 1; row <= 12; row++) await say(ada, roomId, `row ${row}`);
    await ada.invite(roomId, cy.getUserId());
    await until("cy is invited", () => inRoom(cy, roomId, "invite"));
    await cy.joinRoom(roomId);
    const room = await until("cy is in the room", () => inRoom(cy, roomId));
    await room.createThreadsTimelineSets();
    await room.fetchRoomThreads();
    const threads = await until("cy's threads", () => room.getThreads().length && room.getThreads());
    await until("what was said last", () => threads[0].replyToEvent);
    const ducks = await until("the replies", () =>
        threads[0].events.find((event) => event.getContent().body.startsWith("ducks")),
    );
    const reactions = () => room.relations.getChildEventsForEvent(ducks.getId(), "m.annotation", "m.reaction");
    await until("the reaction to a reply", () => reactions()?.getRelations().length);
    tell("threads found later", {
        threads: threads.map((one) => [one.rootEvent.getContent().body, one.length, one.hasCurrentUserParticipated]),
        replies: texts(threads[0].events),
        reactions: reactions().getRelations().map((event) => event.getRelation().key),
        last: threads[0].replyToEvent.getContent().body,
        all: texts(room.threadsTimelineSets[0].getLiveTimeline().getEvents()),
        mine: texts(room.threadsTimelineSets[1].getLiveTimeline().getEvents()),
    });
    await room.loadMembersIfNeeded();
    tell("members loaded", { members: room.getJoinedMembers().map((member) => member.userId).sort() });
}

async function knock(ada, cy) {
    const rules = { type: "m.room.join_rules", state_key: "", content: { join_rule: "knock" } };
    const { room_id: roomId } = await ada.createRoom({ name: "Shed", initial_state: [rules] });
    await until("the shed", () => inRoom(ada, roomId));
    const refused = await refusal(cy.joinRoom(roomId));
    await cy.knockRoom(roomId, { reason: "rain" });
    const outside = await until("cy stands outside", () => inRoom(cy, roomId, "knock"));
    const visitor = await until("ada hears it", () => {
        const member = ada.getRoom(roomId).getMember(cy.getUserId());
        return member?.membership === "knock" && member;
    });
    tell("knocked", { refused, name: outside.name, reason: visitor.events.member.getContent().reason });
    await ada.invite(roomId, cy.getUserId());
    await until("cy may come in", () => inRoom(cy, roomId, "invite"));
    await cy.joinRoom(roomId);
    await until("cy is in", () => inRoom(cy, roomId));
    await until("ada sees it", () => ada.getRoom(roomId).getMember(cy.getUserId()).membership === "join");
    tell("let in", { members: ada.getRoom(roomId).getJoinedMemberCount() });
}

async function walkThroughSpace(ada, bo) {
    const make = async (name, options) => (await ada.createRoom({ name, ...options })).room_id;
    const spaceId = await make("Allotments", { preset: "public_chat", creation_content: { type: "m.space" } });
    const allow = [{ type: "m.room_membership", room_id: spaceId }];
    const rules = { type: "m.room.join_rules", state_key: "", content: { join_rule: "restricted", allow } };
    const inner = [];
    for (const name of ["North", "South"]) {
        inner.push(await make(name, { initial_state: [rules] }));
        const content = { via: [ada.getDomain()], order: name, suggested: name === "South" };
        await ada.sendStateEvent(spaceId, "m.space.child", content, inner.at(-1));
    }
    const refused = await refusal(bo.joinRoom(inner[0]));
    await bo.joinRoom(spaceId);
    const space = await until("bo is in the space", () => inRoom(bo, spaceId));
    await until("its children", () => space.currentState.getStateEvents("m.space.child").length === 2);
    const whole = await bo.getRoomHierarchy(spaceId);
    const paged = new RoomHierarchy(space, 1);
    while (paged.canLoadMore) await paged.load();
    await bo.joinRoom(inner[0]);
    const room = await until("bo is in the north", () => inRoom(bo, inner[0]));
    tell("space", {
        isSpace: space.isSpaceRoom(),
        refused,
        names: whole.rooms.map((entry) => entry.name),
        paged: paged.rooms.map((entry) => entry.name),
        suggested: paged.isSuggested(spaceId, inner[1]),
        joinRule: room.getJoinRule(),
        by: room.getMember(bo.getUserId()).events.member.getContent().join_authorised_via_users_server,
    });
}

async function find(ada, bo) {
    const room_alias_name = "orchard";
    const published = { preset: "public_chat", visibility: "public", room_alias_name };
    const { room_id: roomId } = await ada.createRoom({ name: "Orchard", ...published });
    await say(ada, roomId, "Quinces ripen late");
    await say(ada, roomId, "yes they do");
    const filter = { generic_search_term: "orchard" };
    let found = await bo.publicRooms({ limit: 5, filter });
    for (let left = 100; left && !found.chunk.length; left--) {
        await new Promise((wake) => setTimeout(wake, 50));
        found = await bo.publicRooms({ limit: 5, filter });
    }
    const alias = `#${room_alias_name}:${bo.getDomain()}`;
    const summary = await bo.getRoomSummary(alias);
    await bo.joinRoom(alias);
    await until("bo is in the orchard", () => inRoom(bo, roomId));
    const { results, count } = await bo.searchRoomEvents({ term: "quinces" });
    const people = await bo.searchUserDirectory({ term: "ada" });
    tell("found", {
        published: found.chunk.map((entry) => [entry.room_id === roomId, entry.name, entry.num_joined_members]),
        summary: [summary.room_id === roomId, summary.name, summary.membership, summary.join_rule],
        count,
        results: results.map((result) => [
            result.context.getEvent().getContent().body,
            texts(result.context.getTimeline()),
        ]),
        people: people.results.map((person) => person.user_id),
        shared: (await bo._unstable_getSharedRooms(ada.getUserId())).includes(roomId),
    });
}

async function scrollBack(ada, cy) {
    const { room_id: roomId } = await ada.createRoom({ preset: "public_chat", name: "Diary" });
    const days = [];
    for (let day = 1; day <= 40; day++) days.push(await say(ada, roomId, `day ${day}`));
    await cy.joinRoom(roomId);
    const room = await until("cy has the diary", () => inRoom(cy, roomId));
    const atFirst = texts(room.getLiveTimeline().getEvents()).length;
    for (let pages = 0; room.oldState.paginationToken !== null && pages < 20; pages++) await cy.scrollback(room, 10);
    const events = room.getLiveTimeline().getEvents();
    tell("scrolled back", {
        atFirst,
        texts: texts(events),
        first: events[0].getType(),
        twice: events.length - new Set(events.map((event) => event.getId())).size,
    });
    const timeline = await cy.getEventTimeline(room.getUnfilteredTimelineSet(), days[19]);
    const second = await logIn(cy.getUserId());
    const again = await until("the second device", () => inRoom(second, roomId));
    const jumped = await second.getEventTimeline(again.getUnfilteredTimelineSet(), days[19]);
    const near = texts(jumped.getEvents());
    while (await second.paginateEventTimeline(jumped, { backwards: true, limit: 30 }));
    tell("jumped", {
        known: texts(timeline.getEvents()).includes("day 20"),
        near: near.includes("day 20") && !near.includes("day 1"),
        toTheStart: texts(jumped.getEvents()).slice(0, 3),
    });
    await second.logout(true);
}

async function upgrade(ada, bo) {
    const { room_id: old } = await ada.createRoom({ name: "Compost", room_version: "11", preset: "public_chat" });
    await bo.joinRoom(old);
    await until("bo is at the compost", () => inRoom(bo, old));
    const refused = await refusal(bo.upgradeRoom(old, "12"));
    const { replacement_room: replacement } = await ada.upgradeRoom(old, "12");
    const tombstone = await until("the tombstone", () =>
        bo.getRoom(old).currentState.getStateEvents("m.room.tombstone", ""),
    );
    const closed = await refusal(say(bo, old, "too late"));
    await bo.joinRoom(replacement);
    const room = await until("bo is at the new one", () => inRoom(bo, replacement));
    tell("upgraded", {
        refused,
        followed: tombstone.getContent().replacement_room === replacement,
        closed,
        predecessor: room.findPredecessor().roomId === old,
        version: room.getVersion(),
        name: room.name,
        visible: [old, replacement].map((id) => bo.getVisibleRooms().some((one) => one.roomId === id)),
        history: bo.getRoomUpgradeHistory(replacement, true).map((one) => [old, replacement].indexOf(one.roomId)),
    });
}

async function tag(bo, roomId) {
    await bo.setRoomTag(roomId, "m.favourite", { order: 0.5 });
    await until("the tag", () => bo.getRoom(roomId).tags["m.favourite"]);
    const tags = { ...bo.getRoom(roomId).tags };
    await bo.deleteRoomTag(roomId, "m.favourite");
    await until("no tag", () => !bo.getRoom(roomId).tags["m.favourite"]);
    await bo.setAccountData("m.direct", { "@ada:here": [roomId] });
    await until("the direct chats", () => bo.getAccountData("m.direct"));
    tell("tagged", { tags, after: bo.getRoom(roomId).tags, direct: bo.getAccountData("m.direct").getContent() });
}

async function bePutOut(ada, bo, roomId) {
    await ada.kick(roomId, bo.getUserId(), "weeds");
    const room = await until("bo is out", () => inRoom(bo, roomId, "leave"));
    const { reason } = room.getMember(bo.getUserId()).events.member.getContent();
    const refused = await refusal(say(bo, roomId, "but"));
    await bo.forget(roomId);
    const again = await logIn(bo.getUserId());
    tell("kicked", { reason, refused, forgotten: [bo, again].map((device) => device.getRoom(roomId)) });
    await bo.logout(true);
    const whoami = await refusal(bo.whoami());
    tell("logged out", { whoami, other: (await again.whoami()).user_id === bo.getUserId() });
}

main().then(
    () => end(0),
    (error) => {
        console.error(error);
        end(1);
    },
);
