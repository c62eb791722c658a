"""What users bring: photos, clips and live streams -> RGB pictures as they are meant to be seen. Imports no torch.

stills   a photo                      view  decoded frame -> picture, and which is seen when
clips    a video file                 fit   pictures <-> the size of a model
streams  a video that arrives live
webp     an animated WebP -> a video that FFmpeg decodes
"""
