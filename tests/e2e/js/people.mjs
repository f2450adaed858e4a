// People who use matrix-js-sdk, and what a script of theirs needs: waiting for something to be seen, and telling it.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

// The library is built for Node.js 22, of whose novelties this is the only one it needs here.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

// What the library logs goes to stderr; stdout is for what is told.
for (const level of ["log", "info", "debug", "trace"]) console[level] = console.error;

const library = (file) => import(pathToFileURL(join(process.env.NODE_MODULES, "matrix-js-sdk/lib", file)).href);
const sdk = await library("index.js");
const { logger } = await library("logger.js");
export const { RoomHierarchy } = await library("room-hierarchy.js");
const { PushProcessor } = await library("pushprocessor.js");
logger.setLevel?.("warn");

const [baseUrl] = process.argv.slice(2);
const password = "correct horse battery staple";
const started = [];

/** Print one step of the afternoon as a line of JSON. */
export function tell(step, seen) {
    process.stdout.write(`${JSON.stringify({ step, ...seen })}\n`);
}

/** The first value that is neither false nor missing; what the library shows changes only as syncs arrive. */
export async function until(what, look) {
    for (const end = Date.now() + 15_000; Date.now() < end; await new Promise((wake) => setTimeout(wake, 15))) {
        const seen = look();
        if (seen) return seen;
    }
    throw new Error(`waited in vain: ${what}`);
}

/** The error code with which a request is refused. */
export async function refusal(request) {
    try {
        await request;
    } catch (error) {
        return error.errcode;
    }
    throw new Error("was not refused");
}

function client(login) {
    return sdk.createClient({
        baseUrl,
        logger,
        timelineSupport: true,
        userId: login?.user_id,
        deviceId: login?.device_id,
        accessToken: login?.access_token,
    });
}

/** Register, and be in sync: threads on, members loaded lazily. */
export async function register(username) {
    return start(await client().registerRequest({ username, password, auth: { type: "m.login.dummy" } }));
}

/** Another device of a user. */
export async function logIn(userId) {
    const identifier = { type: "m.id.user", user: userId };
    return start(await client().loginRequest({ type: "m.login.password", identifier, password }));
}

async function start(login) {
    const person = client(login);
    started.push(person);
    // The server has no push rules yet, without which the library does not begin: it gets its own defaults.
    person.getPushRules = async () => PushProcessor.rewriteDefaultRules(logger, {});
    await person.startClient({
        lazyLoadMembers: true,
        threadSupport: true,
        initialSyncLimit: 8,
        pendingEventOrdering: "detached", // as Element has it
    });
    await until(`${login.user_id} is in sync`, () => person.getSyncState() === "SYNCING");
    return person;
}

// A logout cuts off what the device was still asking, and the library does not catch all of that.
process.on("unhandledRejection", (error) => {
    if (error.name === "AbortError") return;
    console.error(error);
    end(1);
});

/** End all syncs and this process. */
export function end(status) {
    for (const person of started) person.stopClient();
    process.exit(status);
}

/** Whether the user is in the room in the way that is asked for; then the room. */
export function inRoom(person, roomId, membership = "join") {
    const room = person.getRoom(roomId);
    return room?.getMyMembership() === membership && room;
}

/** An event that the person's timelines of the room show. */
export function shown(person, roomId, eventId) {
    return person.getRoom(roomId)?.findEventById(eventId);
}

/**
 * The thread, as soon as the person's library shows so many replies and nothing of it is still being sent.
 *
 * Its own count (`length`) may count one's own reply twice, if /sync is faster than the answer to sending.
 */
export function threadOf(person, roomId, root, count) {
    return until(`a thread with ${count} replies`, () => {
        const thread = person.getRoom(roomId)?.getThread(root);
        const sent = thread?.initialEventsFetched && thread.events.every((event) => !event.status);
        return sent && texts(thread.events).length === count + 1 && thread;
    });
}

/** Texts of the messages among events; edits are shown in what they replace. */
export function texts(events) {
    return events
        .filter((event) => event.getType() === "m.room.message" && !event.isRelation("m.replace"))
        .map((event) => event.getContent().body);
}

/** Send a text; its event ID. */
export async function say(person, roomId, body, thread = null) {
    return (await person.sendMessage(roomId, thread, { msgtype: "m.text", body })).event_id;
}
