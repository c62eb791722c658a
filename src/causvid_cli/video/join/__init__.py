"""New frames joined to the clip that they came from: its own frames and its sound stay as they are.

    plan = plan_join(Path("clip.mp4"))          # can its packets be kept, and what must the new frames be like?
    Join(plan)(part, target, metadata={}, chapters=())

plan_join: what a clip is. Join: its packets, or where they cannot be kept its frames encoded anew, then the new ones.
WithSound: only the new frames, with the clip's sound. container_of: MP4, Matroska or WebM by a file's name.
"""

from causvid_cli.video.join.containers import JoinContainer, container_of
from causvid_cli.video.join.joins import Join, WithSound
from causvid_cli.video.join.plan_join import JoinPlan, Tail, plan_join

__all__ = ["Join", "JoinContainer", "JoinPlan", "Tail", "WithSound", "container_of", "plan_join"]
