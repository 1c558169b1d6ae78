"""Strict copies of the SDK's types: exact types, no field that the SDK does not know.

The SDK's own models take anything, so that an old SDK reads a newer server. A copy refuses what they pass.
"""

import types
from collections.abc import Sequence
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def check(adapter: TypeAdapter[Any], value: Any, what: str) -> None:
    """Fails with every place where `value`, decoded JSON, is not of the adapter's type."""
    try:
        adapter.validate_python(value)
    except ValidationError as exc:
        found = [
            f"  {'.'.join(map(str, e['loc']))}: {e['msg']:.200}, not {e['input']!r:.100}"
            for e in exc.errors()
        ]
        raise AssertionError("\n".join([f"{what} is not what the SDK expects:", *found])) from None


def adapter(annotation: Any, **added: dict[str, Any]) -> TypeAdapter[Any]:
    """Validates the strict copy of an SDK type. `added`: our own fields, by the name of the SDK's class."""
    return TypeAdapter(_Copier(added).copy(annotation))


class _Copier:
    def __init__(self, added: dict[str, dict[str, Any]]) -> None:
        self._added = added
        self._model = cache(self._copied_model)

    def copy(self, annotation: Any) -> Any:
        origin, args = get_origin(annotation), get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self._model(annotation)
        if origin is Annotated:  # all that the SDK annotates is a discriminator, which _union finds itself
            return self.copy(args[0])
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin in (list, dict):
            return origin[tuple(self.copy(arg) for arg in args)]
        if origin is Literal or annotation in (str, int, float, bool, object, types.NoneType):
            return annotation
        raise TypeError(f"no strict copy of {annotation!r}")

    def _copied_model(self, model: type[BaseModel]) -> type[BaseModel]:
        fields: dict[str, Any] = {
            name: (self.copy(field.annotation), _given(field)) for name, field in model.model_fields.items()
        }
        added = self._added.get(model.__name__, {})
        return create_model(model.__name__, __base__=Strict, **fields, **added)

    def _union(self, members: Sequence[Any]) -> Any:
        """Its member is chosen by `type` where there is one, so that an error names one and not thirty."""
        by_type: dict[str, list[Any]] = {}
        rest = []
        for member in members:
            copied = self.copy(member)
            for kind in (kinds := _kinds(member)):
                by_type.setdefault(kind, []).append(copied)
            if not kinds:
                rest.append(copied)
        if len(by_type) > 1:
            tagged = [Annotated[reduce(or_, group), Tag(kind)] for kind, group in by_type.items()]
            rest.append(Annotated[reduce(or_, tagged), Discriminator(_kind_of)])
        else:
            rest += [copied for group in by_type.values() for copied in group]
        return reduce(or_, rest)


def _given(field: FieldInfo) -> Any:
    return Field(... if field.is_required() else field.default, alias=field.alias)


def _kinds(member: Any) -> list[str]:
    """The values of `type` by which a member of a union is known."""
    if not (isinstance(member, type) and issubclass(member, BaseModel) and "type" in member.model_fields):
        return []
    annotation = member.model_fields["type"].annotation
    options = get_args(annotation) if get_origin(annotation) is Union else [annotation]
    return [kind for option in options if get_origin(option) is Literal for kind in get_args(option)]


def _kind_of(value: Any) -> Any:
    return value.get("type", "message") if isinstance(value, dict) else None
