"""Wordings of the questions about motion, of their answers, and of descriptions that videos are generated from."""

from collections.abc import Mapping, Sequence

import numpy as np

from videotok.lm.chat import Turn
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
    if CAMERA in answers:
        verb, where = _choose(CAMERA_VERBS, rng), _choose(CAMERA_PHRASES[answers[CAMERA]], rng)
        subject = _choose(("the camera", "the camera", "camera", "a camera"), rng)
        text = f"{subject} {verb} {where}"
        if rng.random() < 0.15:
            text = f"pan {where}" if rng.random() < 0.5 else f"move {where}"
    elif ZOOM in answers:
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
