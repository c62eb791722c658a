"""`causvid eval`: prompts -> clips -> figures.

prompts.py        what is asked: a file's prompts, or the built-in set
makers.py         who answers: student, teacher, and the storybook's own renderer; several clips at once
metrics.py        what is measured of any clip: pure functions of frames
judge.py          what a storybook clip shows, named by a small network
likeness.py       whether a storybook clip is drawn as the storybook draws it
run.py            all of them joined, batch by batch
trials.py         the same for prompt changes and photos: made and measured batch by batch
switches.py       prompts that change on the way, in every way that a script offers
photos.py         photos that are set in motion
folder.py         what is kept on disk, so that a run that was stopped goes on
figures.py        the clips' figures in one object, and in one table
trial_figures.py  the same for prompt changes and photos
page.py           the same as a page with charts and pictures
page_charts.py    its charts
vbench.py         VBench's dimensions, where that package is installed
"""
