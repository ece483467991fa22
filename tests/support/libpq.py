"""What libpq itself makes of a connection URI: the library that comes with the embedded PostgreSQL is asked."""

import ctypes

from kontract.cli.toolchain.postgres import programs


class _Option(ctypes.Structure):
    _fields_ = [
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    ]


def _library():
    found = ctypes.CDLL(
        str(next((programs().parent / "lib").glob("libpq.*so.5*"), programs().parent / "lib/libpq.so.5"))
    )
    found.PQconninfoParse.restype = ctypes.POINTER(_Option)
    found.PQconninfoParse.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)]
    found.PQconninfoFree.argtypes = [ctypes.POINTER(_Option)]
    found.PQfreemem.argtypes = [ctypes.c_char_p]
    return found


LIBRARY = _library()


def parse(url):
    """The parameters of a URI by key word, None when libpq refuses it (PQconninfoParse)."""
    complaint = ctypes.c_char_p()
    options = LIBRARY.PQconninfoParse(url.encode(), ctypes.byref(complaint))
    if not options:
        return None
    found, index = {}, 0
    while options[index].keyword:
        if options[index].val is not None:
            found[options[index].keyword.decode()] = options[index].val.decode()
        index += 1
    LIBRARY.PQconninfoFree(options)
    return found
