"""Numbers as TensorBoard's events, read by a reader of the format that is not ours."""

import struct
from contextlib import closing

from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog

from kdjax.training.events import Events


def masked_crc(data):
    """Castagnoli's sum, bit by bit, and masked as the format of records has it."""
    crc = 2**32 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 2**32 - 1
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def read(path):
    """Yield the events of a file, each with its sums as they should be."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        head, sum_of_head = data[at : at + 8], data[at + 8 : at + 12]
        (size,) = struct.unpack("<Q", head)
        body, sum_of_body = data[at + 12 :][:size], data[at + 12 + size :][:4]
        assert sum_of_head + sum_of_body == struct.pack(
            "<II", masked_crc(head), masked_crc(body)
        )
        yield Event.FromString(body)
        at += size + 16


def files(folder):
    return sorted(folder.iterdir())


def test_a_file_has_its_version_where_it_begins_and_the_numbers_of_steps(tmp_path):
    with closing(Events(epath.Path(tmp_path), 4)) as events:
        events.write(5, {"loss": 0.5, "time/data": float("nan"), "grad_norm/text": 2.0})
        events.write(6, {"loss": 0.25})
    (file,) = files(tmp_path)
    assert "tfevents" in file.name
    version, start, *steps = read(file)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    assert [
        (event.step, {x.tag: x.simple_value for x in event.summary.value})
        for event in steps
    ] == [(5, {"loss": 0.5, "grad_norm/text": 2.0}), (6, {"loss": 0.25})]
    times = [event.wall_time for event in (version, start, *steps)]
    assert times == sorted(times) and times[0] > 1e9


def test_what_is_flushed_is_there_and_a_run_that_goes_on_has_another_file(tmp_path):
    with closing(Events(epath.Path(tmp_path), 0)) as first:
        first.write(1, {"loss": 0.5})
        first.flush()
        (file,) = files(tmp_path)
        assert [event.step for event in read(file)] == [0, 1, 1]
        with closing(Events(epath.Path(tmp_path), 0)):
            pass
    assert len(files(tmp_path)) == 2
    assert files(tmp_path)[0] == file
