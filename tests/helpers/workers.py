"""Functions that the tests run in worker processes."""
import collections
import os
import sys
import time

from core.errors import UserError


def square(number):
    time.sleep(0.02 * (number % 3))
    return number ** 2


def imported(module, *_):
    return module in sys.modules


def fail_at_five(number):
    if number == 5:
        raise UserError("number five is bad")
    return number


def die_at_five(number):
    if number == 5:
        os._exit(9)
    return number


Item = collections.namedtuple("Item", "name content")


def slowly(function, item):
    time.sleep(0.2)
    return function(item.name)


def sleep_long(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
