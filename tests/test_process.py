"""What a command says of its libraries' troubles, and what it keeps to itself."""

import subprocess
import sys

# Each kind, once of Orbax and once of another.
TROUBLED = '''
import asyncio, gc
from kdjax.process import quiet_libraries

quiet_libraries()


class Late:
    def __init__(self, words):
        self.words = words

    def __del__(self):
        raise RuntimeError(self.words)


Late("Event loop is closed")
Late("another trouble")


READING = """
async def fail():
    raise ValueError("lost")


async def hold():
    try:
        await asyncio.sleep(1)
    finally:
        raise ValueError("held")
"""


async def leave(name):
    there = {"asyncio": asyncio}
    exec(compile(READING, name, "exec"), there)
    asyncio.ensure_future(there["fail"]())
    held = there["hold"]()
    held.send(None)
    del held
    await asyncio.sleep(0)


for name in ("packages/orbax/reading.py", "packages/other/reading.py"):
    asyncio.run(leave(name))
    gc.collect()
'''


def test_only_what_orbax_leaves_behind_when_it_gives_up_is_not_said():
    command = [sys.executable, "-c", TROUBLED]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "Event loop is closed" not in said
    assert said.count("RuntimeError: another trouble") == 1
    assert "packages/orbax" not in said
    assert said.count("ValueError: lost") == 1
    assert said.count("ValueError: held") == 1
