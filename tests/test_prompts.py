"""Prompts in the model's own form."""

import warnings

import pytest

from mlx_happyhorse import Line, Prompt, RequestError


def test_a_prompt_is_written_as_the_model_knows_it():
    prompt = Prompt(
        "  A man talks.\n",
        [
            Line("Young man in polo", "Mandarin", "有的人，还带着。"),
            Line("Woman", "English", 'Say "no"'),
        ],
        "Waves",
    )
    assert str(prompt) == (
        "A man talks.\n\n"
        'Dialogue:\n<Young man in polo, Mandarin>: "有 的 人，还 带 着。"\n<Woman, English>: "Say "no""\n\n'
        "Background Sound:\n<Waves>"
    )


def test_without_dialogue_or_sound_it_says_so():
    assert str(Prompt("A sea.")) == "A sea.\n\nBackground Sound:\n<No prominent background sound>"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("有的人在一起", "有 的 人 在 一 起"),
        ("有  的\n人", "有 的 人"),
        ("나비번알아 .", "나 비 번 알 아 ."),
        ("カタカナとーend", "カ タ カ ナ と ーend"),
        ("ハ\u3099", "バ"),
        ("我爱Mac电脑", "我 爱Mac电 脑"),
        ("我，你", "我，你"),
        ("人々は𠮷", "人 々 は 𠮷"),
        ("「はい」", "は い"),
        ('"Hello."', "Hello."),
        ('"a" and "b"', '"a" and "b"'),
        ("Grüß Gott", "Grüß Gott"),
    ],
)
def test_chinese_japanese_and_korean_letters_stand_one_space_apart(text, written):
    assert str(Line("x", "Mandarin", text)) == f'<x, Mandarin>: "{written}"'
    assert str(Line("x", "Mandarin", written)) == f'<x, Mandarin>: "{written}"'


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("Old man, English: Well: no.", ("Old man", "English", "Well: no.")),
        ("Woman, tired, Korean:나비", ("Woman, tired", "Korean", "나비")),
        ("男，Mandarin：你好", ("男", "Mandarin", "你好")),
    ],
)
def test_a_line_is_read_from_words(line, parts):
    assert Line.parse(line) == Line(*parts)


@pytest.mark.parametrize("line", ["", "hello", "man: hello", "man, English:", ", English: hi", "man, : hi"])
def test_what_is_no_line_is_refused(line):
    with pytest.raises(RequestError, match="speaker, language: text"):
        Line.parse(line)


def test_brackets_cannot_end_a_place_early():
    written = str(Prompt("x", [Line("a> b\n<c", "English", "hi")], "<rain>"))
    assert '<a b c, English>: "hi"' in written and "\n<rain>" in written


def test_languages_it_does_not_speak_are_named():
    with pytest.warns(UserWarning, match="does not speak Klingon, only Mandarin"):
        Prompt("x", [Line("a", "Klingon", "nuqneH")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Prompt("x", [Line("a", "english", "hi")])


@pytest.mark.parametrize(
    "wrong", [("", []), (5, []), ("x", [Line("", "English", "hi")]), ("x", ["hi"]), ("x", [], 5)]
)
def test_empty_parts_are_refused(wrong):
    with pytest.raises(RequestError, match=r"a prompt needs|a list of Line|must be text"):
        Prompt(*wrong)
