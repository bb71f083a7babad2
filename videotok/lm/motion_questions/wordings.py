"""Wordings of the questions about motion, of their answers, and of descriptions that videos are generated from."""

from collections.abc import Mapping, Sequence

import numpy as np

from videotok.lm.chat import Turn
from videotok.lm.motion_questions.camera_motion import MOVES, STANDS_STILL
from videotok.lm.motion_questions.scenes import CAMERA, COUNT, OBJECT, SPEED, TIME, ZOOM

QUESTIONS: dict[str, tuple[str, ...]] = {
    CAMERA: (
        "which way does the camera move",
        "which direction does the camera move",
        "in which direction does the camera move",
        "in what direction is the camera moving",
        "what direction does the camera pan",
        "which way does the camera pan",
        "where does the camera move to",
        "where is the camera going",
        "which way is the camera going",
        "does the camera move left, right, up or down",
        "does the camera go left or right or up or down",
        "how does the camera move",
        "what is the direction of the camera",
        "what is the camera's direction",
        "tell me the direction in which the camera moves",
        "name the direction of the camera motion",
        "camera direction",
        "which way does it pan",
    ),
    ZOOM: (
        "does the camera come closer or go away",
        "does the camera move closer or further away",
        "does the camera zoom in or out",
        "is the camera coming closer or going away",
        "does it come closer or go away",
        "is this a zoom in or a zoom out",
        "does the view get closer or further away",
        "does the camera move forward or back",
        "is the camera getting nearer or going away",
        "closer or away",
    ),
    SPEED: (
        "does it get faster or slower",
        "is it getting faster or slower",
        "does the motion get faster or slower",
        "does the movement speed up or slow down",
        "does it speed up or slow down",
        "is the motion speeding up or slowing down",
        "how does the speed change",
        "does the speed go up or down",
        "does it accelerate or brake",
        "faster or slower",
    ),
    OBJECT: (
        "does the object go left or right",
        "does the object move left or right",
        "which way does the object go",
        "which way does the object move",
        "which way is the object going",
        "in which direction does the object move",
        "in what direction is the object moving",
        "where does the object go",
        "where is the object moving to",
        "is the object going to the left or to the right",
        "what is the direction of the object",
        "object direction",
    ),
    COUNT: (
        "how many objects move",
        "how many objects are moving",
        "how many things move",
        "how many things are moving",
        "what is the number of moving objects",
        "count the moving objects",
        "how many moving objects are there",
        "number of objects that move",
        "how many of the objects move",
    ),
    TIME: (
        "does time run forwards or backwards",
        "is the video played forwards or backwards",
        "is the video running forwards or backwards",
        "does the video run forwards or in reverse",
        "is time going forwards or backwards",
        "is this video reversed",
        "forwards or backwards",
    ),
}
"""Question -> ways to ask it. Answers are those of `scenes.ANSWERS`, one word."""
HELD_OUT_QUESTIONS: dict[str, tuple[str, ...]] = {
    CAMERA: ("what way is the camera panning", "the camera moves in which direction"),
    ZOOM: ("is the camera moving closer or away", "does this video zoom in or zoom out"),
    SPEED: ("does the speed get faster or slower", "is the movement getting slower or faster"),
    OBJECT: ("what direction does the object move in", "does the thing move left or right"),
    COUNT: ("how many objects are in motion", "tell me how many things move"),
    TIME: ("is time running backwards or forwards", "does the video play forwards or backwards"),
}
"""Wordings that are never trained on: what free wording costs."""
FURTHER_HELD_OUT: dict[str, tuple[str, ...]] = {
    CAMERA: ("towards which side is the camera turning", "can you tell which way the camera goes"),
    ZOOM: ("are we getting closer or further away", "which is it, a zoom in or a zoom out"),
    SPEED: ("is the speed going up or going down", "will it be faster or slower in the end"),
    OBJECT: ("the object moves to which side", "is it left or right that the object goes"),
    COUNT: ("what number of objects is moving", "can you count the objects that move"),
    TIME: ("are we going forwards or backwards in time", "is it played in reverse or forwards"),
}
"""Wordings that are never trained on either, and further from those that are."""

Templates = tuple[tuple[tuple[str, ...], ...], ...]
_WAY = (
    "which way",
    "which direction",
    "in which direction",
    "in what direction",
    "what direction",
    "to which side",
    "where",
)
_CAMERA = ("the camera", "the view", "this camera", "the picture's camera")
_SIDES = (
    "left, right, up or down",
    "up, down, left or right",
    "left or right or up or down",
    "left, right, up, or down",
)
_MOTION = ("it", "the motion", "the movement", "everything", "the video", "what moves")
_IT = ("it", "the motion", "everything", "the video", "what moves")
_PACE = ("the speed", "the pace", "its speed")
_FASTER = ("faster or slower", "slower or faster")
_THING = ("the object", "the thing", "the moving object", "the oval", "the object in front")
_LEFT_RIGHT = ("left or right", "right or left", "to the left or to the right", "to the right or to the left")
_OBJECTS = ("objects", "things", "of the objects", "of the three objects", "of the things")
_FORWARDS = ("forwards or backwards", "backwards or forwards", "forwards or in reverse", "forward or backward")
TEMPLATES: dict[str, Templates] = {
    CAMERA: (
        (_WAY, ("does",), _CAMERA, ("move", "go", "pan", "turn", "travel", "head", "swing")),
        (_WAY[:-1], ("is",), _CAMERA, ("moving", "going", "turning", "travelling", "heading")),
        (
            ("what is", "tell me", "name", "say", "give"),
            ("the direction of",),
            (*_CAMERA, "the camera motion", "the pan"),
        ),
        (("does",), _CAMERA, ("move", "go", "pan", "travel"), _SIDES),
        (("is",), _CAMERA, ("moving", "going", "panning"), _SIDES),
        (("how",), ("is the camera moving", "does the view move", "does the camera travel", "was the camera moved")),
    ),
    ZOOM: (
        (
            ("does",),
            (*_CAMERA, "it"),
            ("come", "get", "move", "go"),
            ("closer or", "nearer or"),
            ("go away", "move away", "further away", "farther away"),
        ),
        (
            ("is",),
            (*_CAMERA[1:], "it"),
            ("coming", "getting", "moving"),
            ("closer or",),
            ("going away", "moving away", "further away"),
        ),
        (("does",), _CAMERA, ("zoom", "go"), ("in or out", "out or in")),
        (("is",), _CAMERA, ("zooming",), ("in or out", "out or in")),
        (("zoom", "zooming"), ("in or out", "out or in")),
        (("does",), _CAMERA, ("go", "travel", "move"), ("forward or back", "ahead or back", "forwards or backwards")),
    ),
    SPEED: (
        (("does",), _MOTION, ("get", "become", "grow"), _FASTER),
        (("is",), _IT, ("getting", "becoming"), _FASTER),
        (("is the movement",), ("becoming",), _FASTER),
        (
            ("does",),
            _MOTION,
            (
                "speed up or slow down",
                "slow down or speed up",
                "accelerate or slow down",
                "accelerate or brake",
                "brake or accelerate",
            ),
        ),
        (("is",), _MOTION, ("speeding up or slowing down", "slowing down or speeding up", "accelerating or braking")),
        (("how does", "in what way does"), _PACE, ("change", "develop")),
        (("does",), _PACE, ("go up or down", "go down or up", "rise or fall", "increase or decrease", "fall or rise")),
        (("is",), _PACE, ("rising or falling", "increasing or decreasing", "falling or rising")),
        (("will it get", "does it end", "is the end"), _FASTER),
    ),
    OBJECT: (
        (("does",), _THING[:1] + _THING[2:], ("go", "move", "travel", "head"), _LEFT_RIGHT),
        (("is",), _THING, ("going", "moving", "travelling"), _LEFT_RIGHT),
        (_WAY[:3] + _WAY[5:], ("does",), _THING, ("go", "move", "travel", "head")),
        (_WAY[:3], ("is",), _THING, ("going", "moving", "heading")),
        (("what is", "tell me", "say"), ("the direction of",), _THING),
    ),
    COUNT: (
        (("how many",), _OBJECTS, ("move", "are moving", "do move", "change their place")),
        (("what is", "tell me", "say"), ("the number of", "how many are the"), ("moving objects", "moving things")),
        (("count the",), ("moving things", "things that move", "objects that are moving")),
        (("number of", "count of"), ("moving objects", "things that move", "moving things")),
    ),
    TIME: (
        (("does",), ("time", "it", "the clip"), ("run", "go", "play"), _FORWARDS),
        (
            ("is",),
            ("the video", "the clip", "it"),
            ("running", "going", "shown", "played"),
            _FORWARDS[:1] + _FORWARDS[2:],
        ),
        (("is time running",), _FORWARDS[:1]),
        (("which way does",), ("time run", "the time go", "the video play", "the video run")),
    ),
}
"""Question -> templates: one of each group's alternatives, after another."""
PLACES = ("", "", "", "", " in this video", " in the video", " here")
"""Stands at the end of some questions that are composed."""
COMPOSED_SHARE = 0.75
"""Share of questions that are composed from templates, where wordings are free."""
MOVES_QUESTIONS = ("does the camera move", "is the camera moving", "does the view move", "does the camera move at all",
                   "is there any camera motion", "is the camera in motion")  # fmt: skip
STILL_QUESTIONS = ("does the camera stand still", "is the camera still", "is the camera static", "does the camera rest")
"""To be answered the other way round."""
OPPOSITE = {"yes": "no", "no": "yes"}

DESCRIBE = ("what happens", "describe the video", "describe the motion", "what is going on", "what moves and how")

CAMERA_VERBS = ("moves", "goes", "pans", "is moving", "travels")
CAMERA_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
ZOOM_PHRASES: dict[str, tuple[str, ...]] = {
    "closer": ("comes closer", "moves closer", "zooms in", "moves forward", "goes ahead"),
    "away": ("goes away", "moves away", "zooms out", "moves back", "goes back"),
}
SPEED_PHRASES: dict[str, tuple[str, ...]] = {
    "faster": ("faster and faster", "and gets faster", "and speeds up"),
    "slower": ("slower and slower", "and gets slower", "and slows down"),
}
COUNT_PHRASES: dict[str, tuple[str, ...]] = {
    "0": ("nothing moves", "no object moves", "everything stands still"),
    "1": ("one object moves", "one of three objects moves", "1 object moves"),
    "2": ("two objects move", "two of three objects move", "2 objects move"),
    "3": ("three objects move", "all three objects move", "3 objects move"),
}
SPEED_SHARE = 0.5
"""Share of descriptions that say how the speed changes, where it does."""


def describe(answers: Mapping[str, str], rng: np.random.Generator) -> str:
    """Return a description of a video whose answers are given, in one of many wordings; empty where there is none."""
    if answers.get(CAMERA, "") in CAMERA_PHRASES:
        verb, where = _choose(CAMERA_VERBS, rng), _choose(CAMERA_PHRASES[answers[CAMERA]], rng)
        subject = _choose(("the camera", "the camera", "camera", "a camera"), rng)
        text = f"{subject} {verb} {where}"
        if rng.random() < 0.15:
            text = f"pan {where}" if rng.random() < 0.5 else f"move {where}"
    elif answers.get(ZOOM, "") in ZOOM_PHRASES:
        subject = _choose(("the camera", "the camera", "camera", "a camera"), rng)
        text = f"{subject} {_choose(ZOOM_PHRASES[answers[ZOOM]], rng)}"
    elif OBJECT in answers:
        verb, where = _choose(("moves", "goes", "is moving"), rng), _choose(CAMERA_PHRASES[answers[OBJECT]], rng)
        text = f"{_choose(('the object', 'an object', 'something'), rng)} {verb} {where}"
    elif COUNT in answers:
        text = _choose(COUNT_PHRASES[answers[COUNT]], rng)
    elif TIME in answers:
        text = _choose(("a moving camera", "the camera travels"), rng) + (
            " in reverse" if answers[TIME] == "backwards" else ""
        )
    else:
        return ""
    if SPEED in answers and rng.random() < SPEED_SHARE:
        text = f"{text} {_choose(SPEED_PHRASES[answers[SPEED]], rng)}"
    return text


def question_turns(answers: Mapping[str, str], rng: np.random.Generator) -> list[Turn]:
    """Return a conversation about a video: its questions in some wording and order, with their answers.

    Videos whose camera is known are also asked whether it moves, and every video for a description.
    """
    pairs = [(_choose(QUESTIONS[question], rng), answer) for question, answer in answers.items()]
    if CAMERA in answers or ZOOM in answers:
        pairs.append(("does the camera move", "yes"))
    elif COUNT in answers:
        pairs += still_camera_pairs(rng)
    description = describe(answers, rng)
    if description and rng.random() < 0.5:
        pairs.append((_choose(DESCRIBE, rng), description))
    return _turns(pairs, rng)


def free_turns(answers: Mapping[str, str], rng: np.random.Generator) -> list[Turn]:
    """Return a conversation about a video, as `question_turns`, in wordings that are mostly composed from templates.

    Args:
        answers: of a scene (`scenes.ANSWERS`) or of real footage (`CameraPath.answers`); whether the camera moves is
            added where that is known.
        rng: chooses.
    """
    found = dict(answers)
    if CAMERA in found or ZOOM in found:
        found.setdefault(MOVES, "yes")
    if COUNT in found:
        found |= {MOVES: "no", CAMERA: STANDS_STILL, ZOOM: STANDS_STILL}
    if ZOOM in found:  # who asks which way does not know that it is a zoom
        found.setdefault(CAMERA, found[ZOOM])
    pairs = [_free_pair(question, answer, rng) for question, answer in found.items()]
    description = describe(answers, rng)
    if description and rng.random() < 0.3:
        pairs.append((_choose(DESCRIBE, rng), description))
    return _turns(pairs, rng)


def _free_pair(question: str, answer: str, rng: np.random.Generator) -> tuple[str, str]:
    if question == MOVES:
        if rng.random() < 0.35:
            return _choose(STILL_QUESTIONS, rng), OPPOSITE[answer]
        return _choose(MOVES_QUESTIONS, rng), answer
    return free_wording(question, rng), answer


def free_wording(question: str, rng: np.random.Generator) -> str:
    """Return a wording of a question: one of `QUESTIONS`, or composed from `TEMPLATES`; none that is held out."""
    if rng.random() > COMPOSED_SHARE:
        return _choose(QUESTIONS[question], rng)
    held_out = (*HELD_OUT_QUESTIONS[question], *FURTHER_HELD_OUT[question])
    while True:
        templates = TEMPLATES[question]
        text = " ".join(_choose(group, rng) for group in templates[int(rng.integers(len(templates)))])
        if text not in held_out:
            return text + _choose(PLACES, rng)


def still_camera_turns(rng: np.random.Generator) -> list[Turn]:
    """Return a conversation about a video whose camera stands still."""
    return _turns(still_camera_pairs(rng), rng)


def still_camera_pairs(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return questions about the camera, and their answers, where it stands still."""
    return [("does the camera move", "no"), (_choose(QUESTIONS[CAMERA], rng), "it stands still")]


def _turns(pairs: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[Turn]:
    turns = []
    for number in rng.permutation(len(pairs)):
        question, answer = pairs[number]
        turns += [Turn("user", as_typed(question, rng)), Turn("assistant", answer)]
    return turns


def as_typed(question: str, rng: np.random.Generator) -> str:
    """Return a question as people type it: with a question mark and a capital letter, or without."""
    question = question + "?" * int(rng.random() < 0.6)
    return question[0].upper() + question[1:] if rng.random() < 0.4 else question


def training_texts() -> list[str]:
    """Return text in which every word of questions, answers and descriptions occurs: for a text tokenizer."""
    questions = [text for texts in QUESTIONS.values() for text in (*texts,)] + list(DESCRIBE)
    texts = [variant for text in questions for variant in (text, f"{text}?", f"USER: {text[0].upper()}{text[1:]}?")]
    rng = np.random.default_rng(0)
    for question, phrases in ((CAMERA, CAMERA_PHRASES), (ZOOM, ZOOM_PHRASES), (COUNT, COUNT_PHRASES)):
        texts += [describe({question: answer}, rng) for answer in phrases for _ in range(40)]
    for answer in ("left", "right"):
        texts += [describe({OBJECT: answer, SPEED: speed}, rng) for speed in SPEED_PHRASES for _ in range(20)]
    return [*texts, *(f"\nASSISTANT: {answer}" for answer in ("yes", "no", "it stands still", "left", "right"))]


def _choose(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
