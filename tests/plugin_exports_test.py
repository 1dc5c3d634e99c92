"""A plug-in exports the function that makes its device, and no other name of elbo's but the type information of the
errors that pass from it to the program.

Usage: plugin_exports_test.py PLUGIN...
"""
import re
import subprocess
import sys
import unittest

ERRORS = re.compile(r"(typeinfo|typeinfo name|vtable) for elbo::(Error|DeviceAbsent)")


def exports(plugin):
    """The defined names with elbo in them, demangled."""
    said = subprocess.run(["nm", "--dynamic", "--defined-only", "--demangle", plugin], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    names = [line.split(maxsplit=2)[2] for line in said.splitlines()]
    return [name for name in names if "elbo" in name]


class Exports(unittest.TestCase):
    def test_are_the_entry_and_the_errors(self):
        for plugin in PLUGINS:
            with self.subTest(plugin):
                names = [name for name in exports(plugin) if not ERRORS.fullmatch(name) and "elbo::Error::" not in name
                         and "elbo::DeviceAbsent::" not in name]
                self.assertEqual(len(names), 1, names)
                self.assertRegex(names[0], r"^elbo_create_backend_[0-9a-f]{16}$")


if __name__ == "__main__":
    PLUGINS = sys.argv[1:]
    unittest.main(argv=sys.argv[:1])
