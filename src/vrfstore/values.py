"""Classes of values, as of ``dataclasses``, that cost little where nobody makes an instance.

The standard library writes six functions for each class when its module is imported, and compiles them: half a
millisecond a class, which was a quarter of all that a link took. Here classes share their methods, and the one that
gains from being written out, ``__init__``, is written when the first instance is made. For a type checker these are
the standard library's own, and the functions of ``dataclasses`` take their instances.

What is left out is what nobody here uses: classes without ``slots``, inheritance between classes of values, ordering,
``ClassVar`` and ``InitVar``.
"""

from __future__ import annotations

from operator import attrgetter

__all__ = ["asdict", "dataclass", "field", "fields", "replace"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, replace
else:
    _NONE = object()
    """There is no default; a caller has given nothing."""

    class _Field:
        """One field of a class. It has the names that ``dataclasses.Field`` has for the same."""

        __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr")

        def __init__(self, default, default_factory, init, repr, compare):  # noqa: A002
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.repr = repr
            self.compare = compare

    class _Standard:
        """The fields as ``dataclasses`` wants to see them, when it does."""

        def __get__(self, instance, owner):
            import dataclasses  # noqa: PLC0415 - this is not for us

            found = {each.name: each for each in owner.__value_fields__}
            names = ("default", "default_factory", "init", "repr", "compare", "kw_only")
            given = [
                (
                    name,
                    owner.__annotations__.get(name, object),
                    dataclasses.field(
                        **{key: value for key in names if (value := getattr(each, key)) is not _NONE}
                    ),
                )
                for name, each in found.items()
            ]
            return dataclasses.make_dataclass(owner.__name__, given).__dataclass_fields__

    def field(*, default=_NONE, default_factory=_NONE, init=True, repr=True, compare=True):  # noqa: A002
        """See ``dataclasses.field``."""
        return _Field(default, default_factory, init, repr, compare)

    def fields(of):
        """See ``dataclasses.fields``."""
        return of.__value_fields__

    def replace(value, /, **changes):
        """See ``dataclasses.replace``."""
        for each in value.__value_fields__:
            if each.init:
                changes.setdefault(each.name, getattr(value, each.name))
        return type(value)(**changes)

    def asdict(value):
        """See ``dataclasses.asdict``. What is neither a value nor a collection is not copied."""
        return {each.name: _plain(getattr(value, each.name)) for each in value.__value_fields__}

    def dataclass(*, slots, frozen=False, kw_only=False):
        """See ``dataclasses.dataclass``."""
        if not slots:
            raise TypeError("a class of values has slots")

        def decorate(cls):
            found = _fields_of(cls, kw_only=kw_only)
            # What has to be made anew is the class: slots are given to it when it is made.
            left_out = {*(each.name for each in found), "__dict__", "__weakref__"}
            members = {name: value for name, value in cls.__dict__.items() if name not in left_out}
            compared = [each.name for each in found if each.compare]
            members |= {
                "__qualname__": cls.__qualname__,
                "__slots__": tuple(each.name for each in found),
                "__match_args__": () if kw_only else tuple(each.name for each in found if each.init),
                "__value_fields__": found,
                "__dataclass_fields__": _Standard(),
                "__value_key__": attrgetter(*compared) if compared else type,
                "__getstate__": _state,
                "__setstate__": _set_state,
                "__replace__": replace,
            }
            members = {"__init__": _first_init, "__repr__": _repr} | members
            if "__eq__" not in members:
                members |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
            if frozen:
                members |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
            return type(cls)(cls.__name__, cls.__bases__, members)

        return decorate

    def _fields_of(cls, *, kw_only):
        """Return the fields that the body of a class has, in order."""
        if any(hasattr(base, "__value_fields__") for base in cls.__bases__):
            raise TypeError(f"{cls.__qualname__} inherits from a class of values")
        found = []
        for name in cls.__annotations__:
            value = cls.__dict__.get(name, _NONE)
            each = value if isinstance(value, _Field) else field(default=value)
            if isinstance(each.default, (list, dict, set)):
                raise TypeError(f"{cls.__qualname__}.{name} has a default that all instances would share")
            each.name, each.kw_only = name, kw_only
            found.append(each)
        return tuple(found)

    def _first_init(self, *arguments, **values):
        """Write the method of the class whose turn it is, and call it."""
        # Not the class that has this method: another thread may have put the written one in its place meanwhile.
        owner = next(each for each in type(self).__mro__ if "__value_fields__" in each.__dict__)
        written = owner.__dict__["__init__"]
        if written is _first_init:
            written = owner.__init__ = _written_init(owner)
        written(self, *arguments, **values)

    def _written_init(owner):
        parameters, lines, known = ["self"], [], {"_none": _NONE}
        for number, each in enumerate(owner.__value_fields__):
            if not each.init:
                continue
            if each.kw_only and "*" not in parameters:
                parameters.append("*")
            value = each.name
            if each.default_factory is not _NONE:
                known[f"_make_{number}"] = each.default_factory
                parameters.append(f"{each.name}=_none")
                value = f"_make_{number}() if {each.name} is _none else {each.name}"
            elif each.default is not _NONE:
                known[f"_default_{number}"] = each.default
                parameters.append(f"{each.name}=_default_{number}")
            else:
                parameters.append(each.name)
            # The slot itself, which does not ask whether the value is frozen.
            known[f"_set_{number}"] = owner.__dict__[each.name].__set__
            lines.append(f" _set_{number}(self, {value})")
        if hasattr(owner, "__post_init__"):
            lines.append(" self.__post_init__()")
        text = f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"])
        exec(text, known)  # noqa: S102 - it has the names of fields, and no values
        made = known["__init__"]
        made.__qualname__, made.__module__ = f"{owner.__qualname__}.__init__", owner.__module__
        return made

    def _repr(self):
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in self.__value_fields__ if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _eq(self, other):
        if other.__class__ is self.__class__:
            return self.__value_key__(self) == self.__value_key__(other)
        return NotImplemented

    def _hash(self):
        return hash(self.__value_key__(self))

    def _refuse_to_set(self, name, value):
        raise _frozen(f"cannot assign to field {name!r}")

    def _refuse_to_delete(self, name):
        raise _frozen(f"cannot delete field {name!r}")

    def _frozen(message):
        from dataclasses import FrozenInstanceError  # noqa: PLC0415 - for defects only

        return FrozenInstanceError(message)

    def _state(self):
        return [getattr(self, each.name) for each in self.__value_fields__]

    def _set_state(self, state):
        for each, value in zip(self.__value_fields__, state, strict=True):
            object.__setattr__(self, each.name, value)

    def _plain(value):
        if hasattr(type(value), "__value_fields__"):
            return asdict(value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(_plain, value))
        if isinstance(value, dict):
            return {_plain(key): _plain(each) for key, each in value.items()}
        return value
