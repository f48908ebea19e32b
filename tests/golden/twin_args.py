"""Configuration on the command line of the twin's programs: --section.key=value. No torch, because
the number of threads is set before that is imported."""
import json


def sections(words, parser):
    """{section: {key: value}} of such words; values are JSON where they can be read as such."""
    config = {}
    for word in words:
        key, eq, value = word.partition("=")
        section, _, key = key.lstrip("-").partition(".")
        if not eq or not key:
            parser.error("unknown argument %r" % word)
        try:
            value = json.loads(value)
        except ValueError:
            pass
        config.setdefault(section, {})[key] = value
    return config
