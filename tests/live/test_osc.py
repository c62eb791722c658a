"""Open Sound Control: what a desk says, and where it may say it."""

import time

import pytest

from causvid_cli import load, open_live
from causvid_cli.errors import DeviceError, UsageError
from causvid_cli.live.osc import LOOPBACK, listen_to_osc, message_of

udp_client = pytest.importorskip("pythonosc.udp_client")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("/prompt", "it jumps"), {"prompt": "it jumps"}),
        (("/cue", '{"transition": "cut"}'), {"cue": {"transition": "cut"}}),
        (("/seed", 7.0), {"seed": 7}),
        (("/key", "left", 0), {"key": "left", "down": False}),
        (("/key", "left"), {"key": "left", "down": True}),
        (("/pause", 1), {"pause": True}),
        (("/undo", 3), {"undo": 3}),
        (("/quit",), {"quit": True}),
    ],
)
def test_an_address_is_a_verb(said, message):
    assert message_of(*said) == message


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (("/fader/1", 0.5), "OSC /fader/1: unknown; try /prompt"),
        (("/prompt",), "OSC /prompt: says no value"),
        (("/cue", "cut"), "must say a JSON object"),
    ],
)
def test_what_says_nothing_is_told_why(said, complaint):
    with pytest.raises(UsageError, match=complaint):
        message_of(*said)


def test_a_desk_tells_a_session_on_this_machine_only(tiny, work):
    events: list[dict] = []
    with open_live(load(tiny, device="cpu"), "a red car", None, pace="fast") as live:
        live.listen(events.append)
        server = listen_to_osc(live, 0)
        host, port = server.server_address
        assert host == LOOPBACK
        client = udp_client.SimpleUDPClient(host, port)
        client.send_message("/prompt", "a swan flies up")
        client.send_message("/fader", 0.5)
        end = time.monotonic() + 10
        while {event["event"] for event in events} != {"received", "refused"} and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(DeviceError, match=f"--osc {port}: .*try another port"):
            listen_to_osc(live, port)
        server.shutdown()
        server.server_close()
    assert {event["event"] for event in events} == {"received", "refused"}
