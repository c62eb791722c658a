"""Open Sound Control: a show's desk tells a live video what to do, by UDP on this machine.

/prompt "it jumps"     /cue "{json}"     /seed 7     /key left 1     /pause 1     /undo 12
/move event_id 30     /drop event_id  /save name  /quit
"""

import json
from threading import Thread
from typing import TYPE_CHECKING, Any

from causvid_cli.errors import DeviceError, UsageError
from causvid_cli.extras import require
from causvid_cli.live.messages import VERBS

if TYPE_CHECKING:
    from pythonosc.osc_server import ThreadingOSCUDPServer

    from causvid_cli.live.session import Live

LOOPBACK = "127.0.0.1"


def message_of(address: str, *values: Any) -> dict[str, Any]:
    """What an OSC message says (`live.messages`). Raises UsageError."""
    verb = address.strip("/")
    if verb not in VERBS:
        raise UsageError(f"OSC {address}: unknown; try {', '.join(f'/{each}' for each in VERBS)}")
    if verb == "quit":
        return {"quit": True}
    if not values:
        raise UsageError(f"OSC {address}: says no value")
    first = values[0]
    if verb == "cue":
        try:
            return {"cue": json.loads(first)}
        except (TypeError, ValueError, RecursionError):
            raise UsageError(f"OSC {address}: must say a JSON object as text") from None
    if verb == "pause":
        return {"pause": bool(first)}
    if verb == "key":
        return {"key": first, "down": bool(values[1]) if len(values) > 1 else True}
    if verb == "move":
        return {"move": first, "at": int(values[1]) if len(values) > 1 else None}
    return {verb: int(first) if isinstance(first, float) and first.is_integer() else first}


def listen_to_osc(live: "Live", port: int) -> "ThreadingOSCUDPServer":
    """Tell a session what comes to this UDP port of the loopback address; `shutdown()` of what is returned ends it.

    port: 0 takes a free one. Raises DeviceError where the port is taken.
    """
    require("pythonosc", extra="osc", what="--osc", error=DeviceError)
    from pythonosc.dispatcher import Dispatcher
    from pythonosc.osc_server import ThreadingOSCUDPServer

    def hear(address: str, *values: Any) -> None:
        try:
            live.send(message_of(address, *values))
        except UsageError as error:
            live.refuse(None, str(error))

    dispatcher = Dispatcher()
    dispatcher.set_default_handler(hear)
    try:
        server = ThreadingOSCUDPServer((LOOPBACK, port), dispatcher)
    except OSError as error:
        raise DeviceError(f"--osc {port}: {(error.strerror or str(error)).lower()}; try another port") from error
    Thread(target=server.serve_forever, name="causvid osc", daemon=True).start()
    return server
