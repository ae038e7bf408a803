"""Signatures of classes whose constructors pass ``**kwargs`` on."""

import inspect


def full_signature(cls: type) -> inspect.Signature:
    """Return the signature of a class whose constructors may pass ``**kwargs`` on to the next one."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            for parameter in parameters:
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
                break
    return inspect.Signature(sorted(found.values(), key=lambda parameter: parameter.kind))
