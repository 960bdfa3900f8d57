"""Publishes task messages as S2's subsystems do; nothing here knows Jetmill."""

import asyncio
import json
import sys

import nats

MESSAGES = [
    ("task.created", {
        "task_id": "healing_playbook_12345",
        "task_type": "playbook",
        "subsystem": "healing",
        "title": "Fix port collision",
        "created_by": "guardian",
        "metadata": {"playbook_id": "port_collision_fixer"},
    }),
    ("task.started", {"task_id": "healing_playbook_12345"}),
    ("task.completed", {
        "task_id": "healing_playbook_12345",
        "success": True,
        "verification_passed": True,
        "resource_usage": {"cpu_seconds": 2.5},
    }),
    ("task.completed", {"task_id": "unannounced_1", "success": True}),
    ("task.created", {"task_id": "healing_playbook_12346", "title": "Fix it again"}),
    ("task.failed", {"task_id": "healing_playbook_12346", "error_message": "the port is still taken"}),
]


async def main():
    client = await nats.connect(sys.argv[1])
    for subject, body in MESSAGES:
        await client.publish(subject, json.dumps(body).encode())
    await client.drain()


asyncio.run(main())
