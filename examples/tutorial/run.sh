#!/usr/bin/env bash
# examples/tutorial/run.sh - the whole of docs/tutorial.md, as the tests run it. annex, writer, reader, grow and counts are in PATH.
set -eu
ANNEX_DIR=$(mktemp -d /dev/shm/annex-tutorial-XXXXXX)
export ANNEX_DIR
said=$(mktemp)
trap 'rm -rf "$ANNEX_DIR" "$said"' EXIT

# A second is enough for a person; on a busy machine it is until the writer says that it waits.
writer() { if [ "$1" = --and-wait ]; then exec "$(type -P writer)" "$@" >>"$said"; else command writer "$@"; fi; }
sleep() {
  until grep -q waiting "$said"; do command sleep 0.1; done
  : >"$said"
}

# snippet: make
annex create tutorial
annex add tutorial 32M
annex ls
# end

# snippet: talk
writer hello from another process
reader
# end

# snippet: kill
writer --and-wait these words survive &
sleep 1
kill -KILL $!
# end
wait || true

# snippet: look
annex who tutorial
annex map tutorial
reader
# end

# snippet: reap
writer --and-wait nobody reads this &
sleep 1
kill -KILL $!
annex reap tutorial --show
annex reap tutorial
reader
# end

# snippet: grow
grow
# end

# snippet: counts
counts
counts
# end

# snippet: end
annex check tutorial
annex info tutorial
# end
