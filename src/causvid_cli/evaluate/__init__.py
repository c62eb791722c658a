"""`causvid eval`: prompts -> clips -> figures.

prompts.py             what is asked: a file's prompts, or the built-in set
config.py              one evaluation: what is asked for, checked
clip_sources.py        who makes the clips: student, teacher, codec and the storybook's own renderer; several at once
metrics.py             what is measured of any clip: pure functions of frames
seen.py                what can be seen of a story in a window of frames, and by which word
judge.py               what storybook frames show, named by a small network
by_drawing.py          the same without one: the word of which the drawing is nearest
pixel_match.py         whether a storybook clip is drawn as the storybook draws it
measures.py            the named measures of a storybook model: what is told, and where it is looked at
measuring.py           their videos, made and counted
measure_figures.py     their figures in one object and in one table, of one model or of two
run.py                 all of them joined, batch by batch
experiments.py         the same for prompt changes and photos: made and measured batch by batch
switches.py            prompts that change on the way, in every way that a script offers
photos.py              photos that are set in motion
results_folder.py      what is kept on disk, so that a run that was stopped goes on
figures.py             the clips' figures in one object, and in one table
experiment_figures.py  the same for prompt changes and photos
page.py                the same as a page with charts and strips of frames; page.html.j2 says how it looks
page_charts.py         its charts
vbench.py              VBench's dimensions, where that package is installed
"""
