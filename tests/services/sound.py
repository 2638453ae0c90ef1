"""PipeWire: a daemon with one null sink and no session manager.

A stream's buffers and its activation record are memory that both sides write to whenever they like,
without a message. So asking and listing work through the pair, and a player is refused at once.
"""

import array
import json
import math
import os
import re
import wave

from case import case_list
from processes import Failure, wait_until
from trial import Service

CONFIGURATION = """\
context.properties = {
    core.daemon = true
    core.name = pipewire-0
    support.dbus = false
    default.clock.rate = 48000
    default.clock.allowed-rates = [ 48000 ]
}
context.spa-libs = {
    audio.convert.* = audioconvert/libspa-audioconvert
    support.* = support/libspa-support
}
context.modules = [
    { name = libpipewire-module-protocol-native }
    { name = libpipewire-module-metadata }
    { name = libpipewire-module-spa-node-factory }
    { name = libpipewire-module-client-node }
    { name = libpipewire-module-access }
    { name = libpipewire-module-adapter }
    { name = libpipewire-module-link-factory }
]
context.objects = [
    { factory = spa-node-factory
        args = {
            factory.name = support.node.driver
            node.name = driver
            node.group = pipewire.dummy
            priority.driver = 20000
        }
    }
    { factory = adapter
        args = {
            factory.name = support.null-audio-sink
            node.name = sink
            media.class = Audio/Sink
            object.linger = true
            audio.position = [ FL FR ]
            adapter.auto-port-config = { mode = dsp monitor = true position = preserve }
        }
    }
]
"""
RATE = 48000
FRAMES = RATE // 2
BLOCK = 100  # frames that are looked for together
CHANNELS = ("FL", "FR")
# What has the process in it, or when it was started.
CHANGING = re.compile(r"cookie|config\.name|core\.name|.*\.pid|.*process\.id|object\.serial")


class PipeWire(Service):
    title, name = "PipeWire", "pipewire"
    needs = ("pipewire", "pw-cli", "pw-dump", "pw-cat", "pw-link")

    def __init__(self, trial):
        super().__init__(trial)
        runtime = trial.local("runtime")
        os.mkdir(runtime, 0o700)
        configuration = trial.local("pipewire.conf")
        with open(configuration, "w") as file:
            file.write(CONFIGURATION)
        self.path = os.path.join(runtime, "pipewire-0")
        daemon = self.start("pipewire", ["pipewire", "-c", configuration],
                            {"XDG_RUNTIME_DIR": runtime})
        self.wait_for_socket(daemon, self.path)
        wait_until("the sink has its ports", lambda: "sink:playback_FR" in ports(trial, self.path))

    def client_environment(self, path):
        return {"PIPEWIRE_REMOTE": path}


CASES, case = case_list(PipeWire)


def ports(trial, path):
    environment = {**trial.environment, "PIPEWIRE_REMOTE": path}
    return trial.run(["pw-link", "-i", "-o"], environment=environment).split()


@case("pw-cli info shows the same core")
def info(trial):
    lines = trial.run(["pw-cli", "info", "0"]).splitlines()
    return [line for line in lines if not CHANGING.match(line.strip("*\t "))]


def without_changing(value):
    if isinstance(value, dict):
        return {name: without_changing(each) for name, each in value.items()
                if not CHANGING.match(name)}
    if isinstance(value, list):
        return [without_changing(each) for each in value]
    return value


@case("pw-dump shows the same objects with the same properties")
def dump(trial):
    return without_changing(json.loads(trial.run(["pw-dump"])))


# Playing.

def samples():
    """Two sines; no silence at either end."""
    return array.array("h", [round(9000 * math.sin((frame + 1) * step))
                             for frame in range(FRAMES) for step in (0.05, 0.031)])


def write_sound(path):
    with wave.open(path, "wb") as file:
        file.setnchannels(len(CHANNELS))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples().tobytes())


def link(trial, outputs, inputs):
    for channel in CHANNELS:
        trial.run(["pw-link", outputs + channel, inputs + channel], path=trial.service.path)


def start_recorder(trial):
    """It takes no way through the pair: what it hears is what the sink got."""
    heard = trial.local("heard.wav")
    recorder = trial.start("recorder", [
        "pw-cat", "-r", "--target", "0", "--rate", str(RATE), "--channels", str(len(CHANNELS)),
        "--format", "s16", "-P", "{node.name=recorder adapter.auto-port-config={mode=dsp}}", heard],
        trial.service.client_environment(trial.service.path))
    wait_until("the recorder has its ports",
               lambda: "recorder:input_FR" in ports(trial, trial.service.path))
    link(trial, "sink:monitor_", "recorder:input_")
    return recorder, heard


def start_player(trial):
    sound = trial.local("sound.wav")
    write_sound(sound)
    return trial.client(["pw-cat", "-v", "-p", "--target", "0", "-P",
                         "{node.name=player adapter.auto-port-config={mode=dsp}}", sound])


def link_when_ready(trial, player):
    wait_until("the player has its ports or ends", lambda: player.has_ended() or
               "player:output_FR" in ports(trial, trial.service.path))
    if not player.has_ended():
        link(trial, "player:output_", "sink:playback_")


def heard_from(recorder, path):
    """How much of what was played is in the recording, in its order. A machine with much else to do may
    miss a cycle, and then there is a gap."""
    end = os.path.getsize(path) + FRAMES * 2 * len(CHANNELS)
    wait_until("the recorder has come past the end", lambda: os.path.getsize(path) > end)
    recorder.stop()
    with wave.open(path) as file:
        heard = file.readframes(file.getnframes())
    played, size = samples().tobytes(), BLOCK * 2 * len(CHANNELS)
    at = found = 0
    for start in range(0, len(played), size):
        place = heard.find(played[start:start + size], at)
        if place >= 0:
            found, at = found + 1, place + size
    return found * size / len(played)


def sound_arrives(trial):
    recorder, path = start_recorder(trial)
    player = start_player(trial)
    link_when_ready(trial, player)
    wait_until("the player ends", player.has_ended)
    heard = heard_from(recorder, path)
    if heard == 0:
        raise Failure("nothing of the sound arrives")
    return player.popen.returncode, "drained" in player.output()


def player_is_refused(trial):
    """It ends by itself with an error, the log says why, and others go on."""
    player = start_player(trial)
    wait_until("the player ends", player.has_ended)
    if player.popen.returncode == 0:
        raise Failure(f"the player thinks that it has played: {player.output()}")
    trial.expect_log("host", "memory", trial.service.name)
    if info(trial)[0].split() != ["id:", "0"]:
        raise Failure("another client cannot ask for the core")


case("a sound reaches the sink; through the pair the player is refused at once",
     through=player_is_refused)(sound_arrives)


def player_harms_nobody(trial):
    """What is pushed at messages cannot be in time for a clock that sends none: a player may hear
    late or never that it is its turn. Whatever becomes of it, others go on, nothing is left."""
    recorder, path = start_recorder(trial)
    player = start_player(trial)
    link_when_ready(trial, player)
    try:
        wait_until("the player ends", player.has_ended, deadline=10)
        end = f"status {player.popen.returncode}"
    except Failure:
        player.stop()
        end = "it waits until it is ended"
    trial.case.note = f"{end}, {heard_from(recorder, path):.0%} of the sound arrives"
    info(trial)


case("a player with --shm-mode diff harms nobody else", through=player_harms_nobody,
     host=("--shm-mode", "diff"), guest=("--shm-mode", "diff"))(sound_arrives)
