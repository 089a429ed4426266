import importlib.metadata
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from elip.errors import ElipError
from elip.registry import REDUCERS, TASKS, Registry, load_plugins


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry of fruits whose built-ins are `apple` and `pear`."""
    (tmp_path / "built_in_fruits.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    fruits: Registry = Registry("fruit", builtins="built_in_fruits", entry_point_group="test.fruits")

    @fruits.register("apple")
    class Apple:
        """Round and red.

        Grows on trees.
        """

        paper = "Newton, 1687"

        def __init__(self, tree: str, *, colour: str = "red", size: int = 1) -> None:
            self.tree, self.colour = tree, colour

    @fruits.register("pear")
    class Pear:
        def __init__(self, tree: str, ripeness: float) -> None:
            self.ripeness = ripeness

    yield fruits
    sys.modules.pop("built_in_fruits", None)


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to put plug-ins in; whatever they import is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


def reducer_file(path: Path, name: str, before: str = "", after: str = "") -> Path:
    path.write_text(
        f"{before}\nfrom elip.registry import REDUCERS\n\n"
        f'@REDUCERS.register("{name}")\nclass Mine:\n    """Mine."""\n{after}\n'
    )
    return path


def test_a_name_taken_twice_names_both_places(registry: Registry) -> None:
    with pytest.raises(ElipError, match="fruit 'apple' is registered twice") as caught:

        @registry.register("apple")
        class Impostor:
            pass

    first, _, second = str(caught.value).partition(", now by ")
    assert "Apple (" in first
    assert f"{Path(__file__).name}:" in first
    assert "Impostor (" in second
    assert f"{Path(__file__).name}:" in second
    assert registry.get("apple").__name__ == "Apple"


def test_an_unknown_name_is_told_with_the_nearest_and_all_known(registry: Registry) -> None:
    with pytest.raises(ElipError, match=r"unknown fruit 'aple'\. Did you mean 'apple'\? Known: apple, pear\."):
        registry.get("aple")


def test_built_ins_are_imported_at_the_first_look_up_only(registry: Registry) -> None:
    assert "built_in_fruits" not in sys.modules
    assert registry.names() == ["apple", "pear"]
    assert "built_in_fruits" in sys.modules


def test_the_real_registries_find_the_built_ins() -> None:
    assert {"none", "elip", "random"} <= set(REDUCERS.names())
    assert "pretrain" in TASKS.names()


def test_a_listing_has_the_first_line_and_the_paper_of_each(registry: Registry) -> None:
    apple, pear = registry.describe()
    assert apple == ("apple", "Round and red.", "Newton, 1687")
    assert pear == ("pear", "", "")


def test_building_hands_over_arguments_and_parameters(registry: Registry) -> None:
    apple = registry.build("apple", "an old tree", colour="green")
    assert (apple.tree, apple.colour) == ("an old tree", "green")


def test_an_unknown_parameter_is_told_with_the_nearest_and_all_known(registry: Registry) -> None:
    with pytest.raises(ElipError, match=r"has no parameter 'color'\. Did you mean 'colour'\? It takes: colour, size\."):
        registry.build("apple", "an old tree", color="green")


def test_the_first_parameter_is_the_callers_and_not_a_configs(registry: Registry) -> None:
    assert list(registry.parameters("apple")) == ["colour", "size"]
    assert list(registry.parameters("pear")) == ["ripeness"]
    with pytest.raises(ElipError, match="'apple' has no parameter 'tree'"):
        registry.check_params("apple", {"tree": "a young one"})


def test_a_parameter_without_default_must_be_given(registry: Registry) -> None:
    with pytest.raises(ElipError, match="fruit 'pear' needs a value for its parameter 'ripeness'"):
        registry.check_params("pear", {})
    registry.check_params("pear", {"ripeness": 0.5})


def test_a_class_that_takes_any_keyword_is_given_any(registry: Registry) -> None:
    @registry.register("salad")
    class Salad:
        def __init__(self, tree: str, **ingredients: str) -> None:
            self.ingredients = ingredients

    assert registry.build("salad", "none", oil="olive").ingredients == {"oil": "olive"}


def test_a_class_without_parameters_says_so(registry: Registry) -> None:
    @registry.register("stone")
    class Stone:
        def __init__(self, tree: str) -> None:
            pass

    with pytest.raises(ElipError, match=r"'stone' has no parameter 'size'\. It takes no parameters\."):
        registry.build("stone", "none", size=3)


def test_annotations_that_only_a_type_checker_can_resolve_do_no_harm(registry: Registry) -> None:
    @registry.register("quince")
    class Quince:
        def __init__(self, tree: str, *, kind: "NowhereToBeFound" = 1) -> None:  # noqa: F821
            pass

    assert registry.parameters("quince")["kind"].default == 1


def test_a_constructor_that_passes_on_what_it_does_not_know_takes_what_its_base_class_takes(registry: Registry) -> None:
    class Tree:
        def __init__(self, soil: str, *, height: int = 2, age: int = 1) -> None:
            self.height = height

    class FruitTree(Tree):
        pass

    @registry.register("cherry")
    class Cherry(FruitTree):
        def __init__(self, soil: str, *, sweet: bool = True, age: int = 9, **others: int) -> None:
            super().__init__(soil, age=age, **others)

    assert {name: p.default for name, p in registry.parameters("cherry").items()} == {
        "height": 2,
        "age": 9,
        "sweet": True,
    }
    assert registry.build("cherry", "loam", height=5).height == 5
    with pytest.raises(ElipError, match=r"has no parameter 'heigth'\. Did you mean 'height'\?"):
        registry.build("cherry", "loam", heigth=5)


@pytest.mark.parametrize("names_errors", [True, False])
def test_what_a_constructor_finds_wrong_is_told_with_the_name_where_that_is_wanted(
    names_errors: bool, registry: Registry
) -> None:
    class WormError(ElipError):
        pass

    basket: Registry = Registry(
        "fruit", builtins="built_in_fruits", entry_point_group="none", names_errors=names_errors
    )

    @basket.register("plum")
    class Plum:
        def __init__(self, tree: str) -> None:
            raise WormError("there is a worm in it.")

    with pytest.raises(WormError) as caught:
        basket.build("plum", "an old tree")
    assert str(caught.value) == ("fruit 'plum': " if names_errors else "") + "there is a worm in it."


def test_a_file_is_loaded_once_however_its_path_is_spelt(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = reducer_file(plugin_folder / "mine.py", "mine_from_file")
    load_plugins([str(path)])
    monkeypatch.chdir(plugin_folder)
    load_plugins(["mine.py", "./mine.py"])
    assert REDUCERS.get("mine_from_file").__doc__ == "Mine."
    assert inspect.getsourcefile(REDUCERS.get("mine_from_file")) == str(path)


def test_files_of_one_name_in_two_folders_are_two_plugins(plugin_folder: Path) -> None:
    for folder in ("one", "two"):
        (plugin_folder / folder).mkdir()
        load_plugins([str(reducer_file(plugin_folder / folder / "mine.py", f"mine_{folder}"))])
    assert {"mine_one", "mine_two"} <= set(REDUCERS.names())


def test_a_module_is_loaded_by_its_dotted_name(plugin_folder: Path) -> None:
    (plugin_folder / "my_package").mkdir()
    reducer_file(plugin_folder / "my_package" / "method.py", "mine_from_module")
    load_plugins(["my_package.method", "my_package.method"])
    assert REDUCERS.get("mine_from_module").__module__ == "my_package.method"


@pytest.mark.parametrize("plugin", ["no_such_module_here", "no_such_package.module"])
def test_a_missing_module_is_told(plugin: str) -> None:
    with pytest.raises(ElipError, match=rf"there is no module '{plugin}'\. For a file, give its path with \.py"):
        load_plugins([plugin])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ElipError, match=r"there is no file .*nowhere\.py"):
        load_plugins([str(tmp_path / "nowhere.py")])


@pytest.mark.parametrize("plugin", ["file.py", "module"])
def test_an_import_that_fails_inside_a_plugin_is_not_taken_for_a_missing_plugin(
    plugin_folder: Path, plugin: str
) -> None:
    path = plugin_folder / plugin
    reducer_file(path.with_suffix(".py"), "mine_importing", before="import no_such_library_here")
    with pytest.raises(ModuleNotFoundError, match="no_such_library_here"):
        load_plugins([str(path) if path.suffix else plugin])


def test_a_broken_file_can_be_loaded_once_it_is_mended(plugin_folder: Path) -> None:
    path = reducer_file(plugin_folder / "broken.py", "mine_broken", after="1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_plugins([str(path)])
    assert "mine_broken" not in REDUCERS.names()
    load_plugins([str(reducer_file(path, "mine_broken", after="2 / 1  # mended"))])
    assert "mine_broken" in REDUCERS.names()


def test_a_plugin_cannot_take_the_name_of_a_built_in(plugin_folder: Path) -> None:
    path = reducer_file(plugin_folder / "usurper.py", "elip")
    with pytest.raises(ElipError, match=r"'elip' is registered twice: first by Elip .*, now by Mine .*usurper\.py"):
        load_plugins([str(path)])


def test_an_installed_package_is_found_by_its_entry_point(plugin_folder: Path, registry: Registry) -> None:
    (plugin_folder / "orchard.py").write_text("loaded = True")
    info = plugin_folder / "orchard-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[test.fruits]\nplum = orchard\n")
    registry.names()
    assert sys.modules["orchard"].loaded


def test_an_entry_point_that_cannot_be_imported_is_not_passed_over(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = importlib.metadata.EntryPoint("plum", "no_such_library_here", "test.fruits")
    monkeypatch.setattr("elip.registry.entry_points", lambda group: [broken] if group == "test.fruits" else [])
    for _ in range(2):  # also at the second attempt
        with pytest.raises(ModuleNotFoundError, match="no_such_library_here"):
            registry.get("apple")
