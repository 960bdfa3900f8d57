"""A Jetmill worker in Python: nats-py and docs/reference/worker-protocol.md, nothing else.

    python worker.py --url nats://127.0.0.1:4222 --queue handlers --slots 4

A handler takes the task's input and a Run, and returns anything that is JSON. It may raise Failure
to name an error; any other exception is the error `handler_error`, which is tried again.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import time
import uuid
from datetime import datetime, timezone

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError, ObjectNotFoundError

HEARTBEAT_EVERY, ACK_PROGRESS_EVERY, CANCEL_GRACE = 2, 10, 5
RESULT_BYTES_MAX = 256 * 1024  # what an event carries; a larger result goes to the object store


class Failure(Exception):
    def __init__(self, code, message, retryable=True):
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


async def wordcount(value, run):
    """{"text": "…"} or {"path": "…"} -> how many lines, words and characters it has."""
    text = value.get("text")
    if text is None:
        if "path" not in value:
            raise Failure("bad_input", "the input needs text or path", retryable=False)
        with open(value["path"], encoding="utf-8", errors="replace") as file:
            text = file.read()
    await run.progress(0.5, "counting")
    return {"lines": text.count("\n"), "words": len(text.split()), "characters": len(text)}


async def fail(value, run):
    """Fails as the input says: {"code": "…", "message": "…", "retryable": true}."""
    value = value or {}
    message = value.get("message", "it was told to fail")
    raise Failure(value.get("code", "told_to_fail"), message, value.get("retryable", True))


async def words(value, run):
    """{"text": "…"} -> all its words; of a large text that is a large result."""
    return {"words": value["text"].split()}


HANDLERS = {"wordcount": wordcount, "words": words, "fail": fail}


def now():
    return datetime.now(timezone.utc).isoformat()


def seconds(text, default):
    """A duration of the protocol: "1.5s"; zero means none."""
    if text is None:
        return default
    value = float(str(text).rstrip("s"))
    return value if value > 0 else None


def backoff(retry, tries):
    """The wait before the next try, as docs/reference/worker-protocol.md computes it."""
    wait = seconds(retry.get("backoff"), 1.0) or 0.0
    wait *= retry.get("factor", 2.0) ** tries
    wait = min(wait, seconds(retry.get("backoff_max"), 300.0) or 0.0)
    jitter = retry.get("jitter", 0.1)
    return wait * (1 - jitter + jitter * random.random())


class Run:
    """One attempt."""

    def __init__(self, worker, item):
        self.worker, self.item, self.spec = worker, item, item["spec"]
        self.key = (item.get("tenant") or "default", item["task_id"], item["attempt"])
        self.started_at, self.begun = now(), time.monotonic()
        self.heard, self.stop, self.task = self.begun, None, None

    async def say(self, kind, **fields):
        """Publishes task.<kind> and waits until the log has it."""
        tenant, task_id, attempt = self.key
        event = {"tenant": tenant, "task_id": task_id, "attempt": attempt, "at": now()}
        event |= {"actor": self.worker.name, "traceparent": self.item.get("traceparent", "")}
        await self.worker.publish(f"task.{kind}", event | fields)

    async def progress(self, fraction, message=""):
        self.heard = time.monotonic()
        await self.say("progress", fraction=fraction, message=message)

    def facts(self):
        duration = f"{time.monotonic() - self.begun:.6f}s"
        return {"worker": self.worker.name, "started_at": self.started_at, "duration": duration}

    async def end(self, state, kind, **fields):
        """A terminal event, and then the outcome for those who wait."""
        await self.say(kind, **self.facts(), **fields)
        if notify := self.spec.get("notify"):
            tenant, task_id, attempt = self.key
            outcome = {"tenant": tenant, "task_id": task_id, "attempt": attempt, "state": state}
            said = ("result", "result_object", "error", "cause")
            outcome |= {k: fields[k] for k in said if k in fields}
            await self.worker.nc.publish(notify, json.dumps(outcome).encode())

    async def fail(self, code, message, cause="CAUSE_ERROR", retryable=True, last=False):
        """Another try, or the end of the task."""
        retry, tries = self.spec.get("retry") or {}, self.item.get("tries", 0)
        error = {"code": code[:64], "message": message[:8000]}
        if code in retry.get("non_retryable", []):
            retryable = False
        if not retryable and cause == "CAUSE_ERROR":
            cause = "CAUSE_REJECTED"
        if retryable and not last and tries + 1 < retry.get("max_attempts", 3):
            delay = f"{backoff(retry, tries):.6f}s"
            await self.say("retrying", cause=cause, error=error, delay=delay, **self.facts())
        else:
            await self.end("TASK_STATE_FAILED", "failed", cause=cause, error=error)

    def limit(self):
        """The limit that this attempt has reached: (code, message, whether the task is over)."""
        limits, age = self.spec.get("timeouts") or {}, time.monotonic() - self.begun
        run, silence = seconds(limits.get("run"), 300), seconds(limits.get("heartbeat"), None)
        if run and age >= run:
            return "timeout", f"the attempt did not end within {run} s", False
        if silence and time.monotonic() - self.heard >= silence:
            return "heartbeat_timeout", f"no sign of life for {silence} s", False
        total, created = seconds(limits.get("total"), None), self.item.get("created_at")
        if total and created:
            born = datetime.fromisoformat(created.replace("Z", "+00:00"))
            if (datetime.now(timezone.utc) - born).total_seconds() >= total:
                return "timeout", f"the task did not end within {total} s", True
        return None

    async def handle(self, handler):
        """Calls the handler; a large input comes from the object store, and a large result goes there."""
        value, place = self.spec.get("input"), self.spec.get("input_object")
        if place:
            value = json.loads(await self.worker.fetch(place))
        text = json.dumps(result := await handler(value, self)).encode()
        if len(text) <= RESULT_BYTES_MAX:
            return {"result": result}
        # Before the event that names it, so that nobody looks for what is not there.
        return {"result_object": await self.worker.keep(text)}

    async def run(self):
        """Runs the handler to its end, or stops it, and says which."""
        name = ((self.spec.get("executor") or {}).get("worker") or {}).get("handler")
        if name not in HANDLERS:
            has = ", ".join(HANDLERS)
            return await self.fail("no_handler", f"no handler {name!r} here; there are {has}")
        self.task = asyncio.create_task(self.handle(HANDLERS[name]))
        limit, started = None, False
        while not (self.task.done() or self.stop or limit):
            await asyncio.wait({self.task}, timeout=0.05)
            if not (started or self.task.done()):
                started = True
                await self.say("started", worker=self.worker.name)
            limit = self.limit()
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=CANCEL_GRACE)
        if self.stop == "stale":
            return None
        if self.stop == "return":
            return await self.say("returned", worker=self.worker.name, reason="the worker leaves")
        if self.stop:
            return await self.end("TASK_STATE_CANCELLED", "cancelled", reason=self.stop[1])
        if limit:
            return await self.fail(limit[0], limit[1], cause="CAUSE_TIMEOUT", last=limit[2])
        try:
            return await self.end("TASK_STATE_COMPLETED", "completed", **self.task.result())
        except Failure as failure:
            return await self.fail(failure.code, failure.message, retryable=failure.retryable)
        except Exception as error:  # noqa: BLE001  whatever a handler raises is its task's error
            return await self.fail("handler_error", f"{type(error).__name__}: {error}")


class Worker:
    def __init__(self, nc, name, queue, slots):
        self.nc, self.js, self.name, self.queue, self.slots = nc, nc.jetstream(), name, queue, slots
        self.running, self.messages, self.started_at = {}, set(), now()
        self.leaving = asyncio.Event()

    async def publish(self, subject, event):
        """The log may be away for a while; a repeated event changes nothing."""
        for attempt in range(10):
            try:
                return await self.js.publish(subject, json.dumps(event).encode())
            except Exception:  # noqa: BLE001
                if attempt == 9:
                    raise
                await asyncio.sleep(1)

    async def fetch(self, place):
        """A large value; nats-py checks the digest that the store says, and we that it is the task's."""
        try:
            found = await (await self.js.object_store("OBJECTS")).get(place["name"])
        except ObjectNotFoundError as error:
            raise Failure("input_missing", f"the input: {place['name']} is gone") from error
        if found.info.digest != place["digest"]:
            raise Failure("input_damaged", "the input is not what was put in", retryable=False)
        return found.data

    async def keep(self, text):
        """Puts a large value in under a name of its own, and says its place."""
        info = await (await self.js.object_store("OBJECTS")).put(str(uuid.uuid4()), text)
        return {"name": info.name, "bytes": info.size, "digest": info.digest}

    async def beat(self):
        running = [{"tenant": t, "task_id": i, "attempt": a, "queue": self.queue} for t, i, a in self.running]
        heartbeat = {
            "worker": self.name, "queues": {self.queue: self.slots}, "running": running,
            "draining": self.leaving.is_set(), "host": socket.gethostname()[:64], "pid": os.getpid(),
            "version": "example", "started_at": self.started_at, "encoding": "json",
            "handlers": sorted(HANDLERS),
        }
        body = json.dumps(heartbeat).encode()
        await self.js.publish(f"$KV.WORKERS.{self.name}", body, headers={"Nats-TTL": "10s"})

    async def keep_beating(self):
        while True:
            try:
                await self.beat()
            except Exception as error:  # noqa: BLE001  the next one may get through
                print(f"a heartbeat failed: {error}", flush=True)
            await asyncio.sleep(HEARTBEAT_EVERY)

    async def on_stop(self, message):
        order = json.loads(message.data)
        for attempt in order.get("attempts", []):
            key = (attempt.get("tenant") or "default", attempt["task_id"], attempt["attempt"])
            if run := self.running.get(key):
                run.stop = run.stop or ("stale" if order.get("stale") else ("cancel", order.get("reason", "")))

    async def on_drain(self, message):
        if json.loads(message.data).get("worker") == self.name:
            self.leaving.set()
            await message.respond(json.dumps({"accepted": True, "running": len(self.running)}).encode())

    async def consumer(self):
        durable = f"queue-{self.queue}"
        try:
            await self.js.consumer_info("EXECUTIONS", durable)
        except NotFoundError:
            config = ConsumerConfig(
                durable_name=durable, filter_subject=f"execution.request.{self.queue}.*.*.*",
                ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=20_000, max_deliver=-1,
            )
            await self.js.add_consumer("EXECUTIONS", config)
        return await self.js.pull_subscribe_bind(consumer=durable, stream="EXECUTIONS")

    async def settle(self, message):
        """Does what one message asks for, and acks it when the log knows what became of that."""
        work = asyncio.create_task(self.obey(message))
        while not (await asyncio.wait({work}, timeout=ACK_PROGRESS_EVERY))[0]:
            await message.in_progress()
        try:
            if work.result():
                await message.ack()
        except Exception as error:  # noqa: BLE001  not acked: it comes again and counts as lost
            print(f"{message.subject} could not be reported: {error}", flush=True)

    async def obey(self, message):
        again = message.metadata.num_delivered > 1
        if not message.data.startswith(b"{"):
            return await self.hand_back_unread(message)
        runs = [Run(self, item) for item in json.loads(message.data)["items"]]
        if any(run.key in self.running for run in runs):
            return False  # Our own progress acks were late: the first delivery goes on.
        for run in runs:
            if again and len(runs) == 1:
                await run.say("lost", worker=self.name, reason="delivered again")
            elif again or self.leaving.is_set():
                reason = "its group was delivered again" if again else "the worker leaves"
                await run.say("returned", worker=self.name, reason=reason)
            else:
                self.running[run.key] = run
        for run in runs if not again else []:
            if run.key in self.running:
                try:
                    await run.run()
                finally:
                    del self.running[run.key]
        return True

    async def hand_back_unread(self, message):
        """Released in protobuf before the scheduler saw our first heartbeat."""
        _, _, _, tenant, task_id, attempt = message.subject.split(".")
        if attempt == "0":
            return False  # A group: it comes again, to a worker that can read it.
        event = {"tenant": tenant, "task_id": task_id, "attempt": int(attempt), "worker": self.name}
        await self.publish("task.returned", event | {"reason": "this worker reads JSON"})
        return True

    async def serve(self, drain_timeout=30):
        await self.nc.subscribe("worker.stop", cb=self.on_stop)
        await self.nc.subscribe("worker.drain", cb=self.on_drain)
        await self.beat()
        beating = asyncio.create_task(self.keep_beating())
        consumer = await self.consumer()
        print(f"{self.name} serves {self.queue}", flush=True)
        while not self.leaving.is_set():
            free = self.slots - len(self.messages)
            if free == 0:
                await asyncio.wait(self.messages, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                fetched = await consumer.fetch(free, timeout=0.5)
            except (asyncio.TimeoutError, nats.errors.TimeoutError):
                continue
            for message in fetched:
                task = asyncio.create_task(self.settle(message))
                self.messages.add(task)
                task.add_done_callback(self.messages.discard)
        await self.beat()
        if self.messages:
            await asyncio.wait(set(self.messages), timeout=drain_timeout)
        for run in self.running.values():
            run.stop = run.stop or "return"
        if self.messages:
            await asyncio.wait(set(self.messages), timeout=2 * CANCEL_GRACE)
        beating.cancel()
        await self.js.publish(f"$KV.WORKERS.{self.name}", b"", headers={"KV-Operation": "DEL"})


async def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--url", default="nats://127.0.0.1:4222")
    options.add_argument("--queue", default="handlers")
    options.add_argument("--slots", type=int, default=4)
    options.add_argument("--name", default=f"python-{os.getpid()}")
    given = options.parse_args()
    nc = await nats.connect(given.url, name=given.name, max_reconnect_attempts=-1)
    worker = Worker(nc, given.name, given.queue, given.slots)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.leaving.set)
    await worker.serve()
    await nc.flush()
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
