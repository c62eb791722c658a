"""Frames -> files and pipes: playable at every moment, published in one step, no lost byte without an error.

encode    VideoFormat       size, rate, tags, encoding: what a video is, whatever it is written to
          FragmentEncoder   frames -> the bytes of one piece of a video, in memory
files     OutputFile        a file that writes all or raises; locks, names given in one step
formats   check_output      what a file's name says, and what would keep it from being written
writer    FileWriter.write  a piece appended to NAME.part, from which a broken-off video goes on
publish   Finish            the `.part` made into the finished file: verified, synced, named by FileWriter.publish
          Interpolator      frames at a model's rate -> at the file's (interpolate.py)
pipe      PipeWriter        the same pieces to stdout
"""

from causvid_cli.video.encode import H264, Encoding, FragmentEncoder, VideoFormat
from causvid_cli.video.files import crc_of
from causvid_cli.video.formats import check_output, part_of, partial_of
from causvid_cli.video.interpolate import Interpolator
from causvid_cli.video.pipe import PIPE_FORMATS, PipeWriter, check_pipe
from causvid_cli.video.publish import Finish
from causvid_cli.video.writer import FileWriter, NumberedFramesWriter, Restart, Writer, open_writer

__all__ = [
    "H264",
    "PIPE_FORMATS",
    "Encoding",
    "FileWriter",
    "Finish",
    "FragmentEncoder",
    "Interpolator",
    "NumberedFramesWriter",
    "PipeWriter",
    "Restart",
    "VideoFormat",
    "Writer",
    "check_output",
    "check_pipe",
    "crc_of",
    "open_writer",
    "part_of",
    "partial_of",
]
