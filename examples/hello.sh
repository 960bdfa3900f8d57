#!/bin/sh
# Submits one command, waits for it, and asks what became of it.
# Needs a running platform: `jetmill dev` in this folder, or its address in JETMILL_NATS_URL.
set -eu

echo "-- submit and wait: the command's output, and its success as the exit code"
jetmill submit --wait --title hello -- echo "hello from $(uname -n)"

echo "-- submit without waiting: the answer is the id"
id=$(jetmill submit --json --title "count to three" -- sh -c 'for n in 1 2 3; do echo $n; done' |
    sed 's/.*"task_id":"\([^"]*\)".*/\1/')
echo "$id"

echo "-- its result, when there is one"
jetmill result --wait "$id"

echo "-- its whole life"
jetmill history "$id"

echo "-- a command that fails: exit code 1, and the reason"
if jetmill submit --wait --max-attempts 1 --title "fails" -- sh -c 'echo oh >&2; exit 3'; then
    echo "this must not happen" >&2
    exit 1
fi
