import pytest

import jaxtok
from jaxtok._lazy import attach


@pytest.mark.parametrize("name", jaxtok.__all__)
def test_public_name_resolves(name):
    assert getattr(jaxtok, name) is getattr(jaxtok, name)
    assert name in dir(jaxtok)


def test_version_is_a_release():
    assert all(part.isdigit() for part in jaxtok.__version__.split("."))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxtok' has no attribute 'Nothing'"):
        jaxtok.Nothing  # noqa: B018


def test_attach_imports_the_listed_submodule():
    get, listing = attach("jaxtok", {"attach": "_lazy"})
    assert "attach" in listing()
    try:
        assert get("attach") is attach
    finally:
        del jaxtok.attach
