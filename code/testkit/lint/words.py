#!/usr/bin/env python3
"""Finds phrases that must not come back in comments, documentation and messages.

    python3 code/testkit/lint/words.py [--rules] [PATH …]

Without a path, all files of the repository are checked: *.rs, *.md, *.py, *.sh, *.tf and Makefiles. Prints each finding as
`file:line: kind: "phrase": remedy` and exits with 1 if there is one. Text in backticks is code and is not checked.

To allow a phrase in one place, add it to ALLOWED with the reason.
"""

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Words that a doc comment or docstring must not start with.
DOC_STARTS = {
    r"(What|Whether|Those|Which|Whose|Who|Whoever)\b": "start with a verb (Returns, Checks, Splits) or a noun (The …, Number of …)",
    r"(Of|How|Where|Why|If|That)\b": "start with a verb (Returns, Checks, Splits) or a noun (The …, Number of …)",
    r"The one that\b": "name the thing: The file that …, The comb that …",
    r"(Says|Tells|Asks|Hears|Knows|Wants|Shows)\b": "programs return, report, request, receive, require, print",
}

# Phrases that no comment, page or message may have.
PHRASES = {
    r"\banew\b": "write: again",
    r"\bnext to nothing\b": "give the number",
    r"\bmay nothing\b": "write: has no permissions, or may not read, write, …",
    r"\b(nobody|somebody|whoever|anybody)\b": "name the one who acts: the caller, no client, a process",
    r"\bno such\b": "write: `x` does not exist; and the remedy",
    r"\b(is|are|was|were) not there\b": "write: does not exist, is missing, is not running",
    r"\bas (those|that) of\b": "write: such as, or like the … of",
    r"\bwants?\s+to\s+be\b": "write: must be, requires",
    r"\bwants\b": "programs do not want: write requires, expects, needs",
    r"\bfor a while\b": "give the duration",
    r"\b(it|that|this|time|query \S+) is over\b": "write: has ended, has expired",
    r"\b(hears?|heard)\b": "programs do not hear: write receives, learns, is notified",
    r"\b(is|are|be|was|were) told\b": "programs are not told: write receives, is notified, is configured",
    r"\b(is|are|was|were) asked\b": "programs are not asked: write is requested, is called, is queried",
    r"\b(says?|said) (nothing|otherwise)\b|\bnothing is said\b|\bnothing says\b": "write: is not set, does not specify",
    r"[:;,] say\b": "write: set, pass, use",
    r"\b(to|want to) be shown\b": "write: require, need",
    r"\b(is|are) gone\b": "write: is lost, has stopped, no longer exists",
    r"\bbusiness\b": "name what handles it",
    r"\bwho asks\b": "write: the caller",
    r"\b(is|are) little\b|\blittle is\b": "give the number",
    r"\bwhat (is|was) little\b": "give the number",
}

# Function names of tests: scenario, then expectation.
NAME_STARTS = {r"(what|whether|whoever|nobody|somebody|those|which|where)_": "name the scenario and the expectation: late_batch_is_ignored"}

# (path, phrase, reason): findings that are right as they are.
ALLOWED = [
    ("code/testkit/lint/words.py", None, "the list itself"),
]

RUST_TOKEN = re.compile(
    r"""
      (?P<line>//[^\n]*)
    | (?P<block>/\*.*?\*/)
    | (?P<raw>b?r(?P<hash>\#*)"(?P<rawtext>.*?)"(?P=hash))
    | (?P<string>b?"(?P<text>(?:[^"\\]|\\.)*)")
    | (?P<char>'(?:[^'\\\n]|\\.[^'\n]*)')
    | (?P<name>\bfn\s+(?P<fn>\w+))
    """,
    re.VERBOSE | re.DOTALL,
)


def is_prose(text):
    """Returns whether a string literal is a sentence and not a value, a name or SQL."""
    words = text.split()
    return len(words) >= 3 and not re.match(r"(?i)\s*(select|with|explain|insert|create|[\[{(])\b", text)


def rust(text):
    """Yields (line, kind, text) of each comment line, string literal and function name."""
    in_doc = False
    last_line = 0
    for match in RUST_TOKEN.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["line"] is not None:
            comment = match["line"]
            doc = re.match(r"//[/!](?!/)", comment)
            starts = bool(doc) and not (in_doc and line == last_line + 1)
            yield line, "doc" if starts else "comment", re.sub(r"^//[/!]?\s?", "", comment)
            in_doc, last_line = bool(doc), line
        elif match["block"] is not None:
            for offset, part in enumerate(match["block"].splitlines()):
                yield line + offset, "comment", part
        elif match["fn"] is not None:
            yield line, "name", match["fn"]
        elif match["char"] is None:
            # A backslash at the end of a line continues a literal.
            literal = match["rawtext"] if match["raw"] is not None else re.sub(r"\\\n\s*", "", match["text"])
            if is_prose(literal):
                yield line, "string", literal


def python(text):
    """Yields (line, kind, text) of each comment and string literal; the first line of a docstring is a doc."""
    previous = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], "comment", token.string.lstrip("# ")
        elif token.type == tokenize.STRING or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            literal = token.string.strip("rbfuRBFU").strip("\"'")
            docstring = previous in (None, tokenize.INDENT, tokenize.NEWLINE) and token.string.endswith('"""')
            for offset, part in enumerate(literal.splitlines() or [""]):
                if docstring or is_prose(part):
                    yield token.start[0] + offset, "doc" if docstring and offset == 0 else "string", part
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


def lines(text):
    """Yields all lines: in scripts, Terraform and Makefiles nearly all prose is in comments and messages."""
    for number, line in enumerate(text.splitlines(), 1):
        yield number, "text", line


def reader(path):
    if path.suffix == ".rs":
        return rust
    if path.suffix == ".py":
        return python
    if path.suffix in (".md", ".sh", ".tf") or path.name == "Makefile":
        return lines
    return None


def files(arguments):
    if arguments:
        given = [Path(argument).resolve() for argument in arguments]
        return sorted(file for path in given for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = {".git", "target", "data", ".terraform"}
        found = [path for path in ROOT.rglob("*") if not hidden.intersection(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if path.is_file())


def allowed(name, phrase):
    return any(name == path and (text is None or text == phrase) for path, text, _ in ALLOWED)


def rules_of(kind):
    if kind == "name":
        return [(re.compile(pattern), True, remedy) for pattern, remedy in NAME_STARTS.items()]
    phrases = [(re.compile(pattern, re.IGNORECASE), False, remedy) for pattern, remedy in PHRASES.items()]
    if kind == "doc":
        phrases += [(re.compile(pattern), True, remedy) for pattern, remedy in DOC_STARTS.items()]
    return phrases


RULES = {kind: rules_of(kind) for kind in ("doc", "comment", "string", "text", "name")}


def findings(path):
    """Yields (line, kind, phrase, remedy) for each finding in one file."""
    read = reader(path)
    if read is None:
        return
    for line, kind, text in read(path.read_text(encoding="utf-8")):
        # Code stands in backticks. In Rust strings they mark names in messages.
        text = re.sub(r"`[^`]*`", "``", text)
        for pattern, at_start, remedy in RULES[kind]:
            match = pattern.match(text.lstrip()) if at_start else pattern.search(text)
            if match:
                yield line, kind, match.group(0).strip(" :;,_"), remedy


def main():
    arguments = sys.argv[1:]
    if arguments == ["--rules"]:
        for title, rules in (("at the start of doc comments", DOC_STARTS), ("anywhere", PHRASES), ("at the start of function names", NAME_STARTS)):
            print(f"{title}:")
            for pattern, remedy in rules.items():
                print(f"  {pattern}\n      {remedy}")
        return 0
    count = 0
    for path in files(arguments):
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        for line, kind, phrase, remedy in findings(path):
            if not allowed(name, phrase):
                count += 1
                print(f'{name}:{line}: {kind}: "{phrase}": {remedy}')
    if count:
        print(f"{count} phrases to rewrite; the rules: python3 code/testkit/lint/words.py --rules", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
