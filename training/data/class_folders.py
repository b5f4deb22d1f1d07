"""Class folders below a folder, and which of `train`, `val` and `test` each belongs to, by what its name says: `Test-Daten`, `测试集`."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.batch.listing import count_kinds, is_left_behind, is_run_folder, looks_like_image, walk_all
from edgeclf.runtime.errors import DatasetError
from edgeclf.training.data.dataset import Sample, Split

# Parts of one data set for cross-validation: fold1, Fold_2, k-fold 3.
_FOLD = re.compile(r"(k[\W_]*|cv[\W_]*)?fold[\W_]*\d+", re.IGNORECASE)
# Folders beside `images` that hold what lies in the images, not what they show as a whole.
_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "jpeg_images"))
_ANNOTATION_FOLDERS = frozenset(
    ("labels", "label", "annotations", "annotation", "masks", "mask", "bboxes", "boxes", "segmentations", "gt")
)
# Images that nobody has sorted, beside those that somebody has.
_UNSORTED = frozenset((
    "extra", "infer", "inference", "misc", "other", "others", "pred", "predict", "prediction", "predictions", "rest",
    "submission", "unlabeled", "unlabelled", "unsup", "unsupervised",
))  # fmt: skip
NO_FOLDER = "in no class folder"


@dataclass(frozen=True)
class ClassFolders:
    """The labelled images of a folder.

    Attributes:
        samples: The images.
        folders: Path of each class folder, relative to the root, with forward slashes.
        not_read: Number of files that are no images by their names, by kind; and of images `in no class folder`.
    """

    samples: tuple[Sample, ...]
    folders: tuple[str, ...]
    not_read: dict[str, int]


def label_of(name: str) -> str:
    """The class that a name stands for: however a file system spells an accent, the name is one (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", name)


def read_class_folders(root: Path) -> ClassFolders:
    """Lists the class folders of a folder, with or without folders for the splits around them.

    Raises:
        DatasetError: It has two folders for one split, folders beside those of the splits, folders that look like splits
            and are not plainly named, or images beside annotations.
    """
    top = _below_its_own_name(root)
    children = _subfolders(top)
    _check_no_annotations(root, children)
    _check_no_folds(root, children)
    splits = {child: split_of_folder(child.name) for child in children}
    parts = [child for child in children if splits[child] is not None]
    if parts:
        children = [child for child in children if child in parts or not _holds_only_runs(child)]
    if "train" in splits.values() and len(set(splits.values()) - {None}) > 1:
        _check_splits_only(root, [child for child in children if child not in parts])
        children = parts
    # A lone test/ folder is evaluation data laid out like its training set.
    if children and len(parts) == len(children) and ("train" in splits.values() or len(children) == 1):
        _check_one_of_each(root, parts, splits)
        named = [(folder, splits[child]) for child in children for folder in _classes_of_split(child)]
    else:
        _check_no_hidden_splits(root, children)
        named = [(child, None) for child in children]
    listed = walk_all([folder for folder, _ in named], within=root)
    # A folder that may not be listed is one unreadable sample: what is in it must not vanish without a word.
    samples = [
        Sample(path.relative_to(root).as_posix(), label_of(folder.name), split)
        for folder, split in named
        for path in listed[folder]
        if looks_like_image(path) or path.is_dir()
    ]
    not_read = count_kinds(path for paths in listed.values() for path in paths)
    # A part may have a folder of its own name inside, with the classes.
    above = {folder.parent for folder, _ in named} | {root, top} | set(parts if children == parts else ())
    loose = sum(_loose_images(folder) for folder in above)
    if loose and samples:
        not_read[NO_FOLDER] = loose
    folders = [folder for folder, _ in named if not _holds_only_runs(folder, listed[folder])]
    return ClassFolders(tuple(samples), tuple(folder.relative_to(root).as_posix() for folder in folders), not_read)


def describe_without_images(root: Path) -> str:
    """What a folder without labelled images has instead, as the noun of an error's `got`."""
    listed = walk_all([root])[root]
    if images := [path for path in listed if looks_like_image(path)]:
        places = sorted({path.relative_to(root).parts[0] for path in images if path.parent != root})
        number = "1 image that lies" if len(images) == 1 else f"{len(images):,} images that lie"
        return f"{number} {NO_FOLDER}" + (f", such as those of {', '.join(map(repr, places[:3]))}" if places else "")
    if not listed and not any(root.iterdir()):
        return "an empty folder"
    folders = len(_subfolders(root))
    texts = ", ".join(f"{count:,} {kind}" for kind, count in list(count_kinds(listed).items())[:3])
    named = f"{folders} folder{'s' if folders > 1 else ''} without an image" if folders else "no folder"
    return named + (f", with {texts}" if texts else "")


def folders_alike(paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Class folders each of which has the same two or more folders inside, as parts or sites have class folders.

    Args:
        paths: Of all images, relative, with forward slashes; class folders first.

    Returns:
        The names of the class folders and of the folders inside; None where they differ.
    """
    inside: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        first, *rest = path.split("/")
        if rest:
            inside[first].add(rest[0] if len(rest) > 1 else "")
    names = list(inside.values())
    if len(names) < 2 or any(its != names[0] or "" in its or len(its) < 2 for its in names):
        return None
    return tuple(sorted(inside)), tuple(sorted(names[0]))


def layout_sentence(samples: Sequence[Sample]) -> str | None:
    """What a user has to know of class folders that may hold the classes; None where nothing says so.

    Args:
        samples: All images of a data set.
    """
    if any(sample.split or label_of(sample.path.split("/", 1)[0]) != sample.label for sample in samples):
        return None
    alike = folders_alike([sample.path for sample in samples])
    if alike is None:
        return None
    outer, inner = (", ".join(repr(name) for name in names[:5]) for names in alike)
    return (
        f"the folders {outer} are taken for the classes, and each has the same folders inside: {inner}; if those are the "
        "classes, bring each into one folder, or name the outer ones train/, val/ and test/"
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir()
        and not is_left_behind(child.name)
        and not looks_like_image(child)
        and not is_run_folder(child)
    )


def _below_its_own_name(folder: Path) -> Path:
    """The folder with the classes where archives have it twice, flowers/flowers/; the folder itself in any other case."""
    inside = _subfolders(folder)
    name = folder.resolve().name.lower()
    if len(inside) != 1 or inside[0].name.lower() != name or _loose_images(folder) or len(_subfolders(inside[0])) < 2:
        return folder
    return inside[0]


def _classes_of_split(folder: Path) -> list[Path]:
    """The class folders of a split; archives often have the split's folder twice, seg_train/seg_train, or `images` between."""
    inside = _subfolders(folder)
    if len(inside) == 1:
        is_same = split_of_folder(inside[0].name) == split_of_folder(folder.name)
        if is_same or (says_nothing(inside[0].name) and len(_subfolders(inside[0])) > 1):
            return _classes_of_split(inside[0])
    _check_no_annotations(folder, inside)
    return inside


def _loose_images(folder: Path) -> int:
    return sum(
        1
        for child in folder.iterdir()
        if looks_like_image(child) and not is_left_behind(child.name) and child.is_file()
    )


def _holds_only_runs(folder: Path, files: Sequence[Path] | None = None) -> bool:
    """Whether a folder has run folders in it, and no files beside them.

    Args:
        folder: The folder.
        files: What `walk_all` lists in it; None where it has not been listed yet.
    """
    if walk_all([folder])[folder] if files is None else files:
        return False
    return any(is_run_folder(path.parent) for path in folder.rglob("run.json"))


def _check_one_of_each(root: Path, parts: Sequence[Path], splits: dict[Path, Split | None]) -> None:
    clash = [split for split, count in Counter(splits[part] for part in parts).items() if count > 1]
    if clash:
        raise DatasetError(
            f"{root} has two {clash[0]} folders",
            got=", ".join(child.name for child in parts),
            expected="one of each",
            hint="merge them",
        )


def _check_splits_only(root: Path, others: Sequence[Path]) -> None:
    """Refuses images beside train/ and test/: they belong to no split, and taking all folders for classes would be worse."""
    listed = walk_all(others, within=root)
    with_images = [folder.name for folder in others if any(looks_like_image(path) for path in listed[folder])]
    if with_images:
        raise DatasetError(
            f"{root} mixes train/, test/ and other folders",
            got=f"{', '.join(repr(name) for name in with_images[:5])} beside them",
            expected="train/ with val/ or test/ and nothing else, or class folders only",
            hint="move the other folders elsewhere",
        )


def _check_no_hidden_splits(root: Path, children: Sequence[Path]) -> None:
    """Refuses folders such as `train_2020` and `test1`, or `my_train` and `my_test` with the same folders inside.

    And a plain name of a split beside a folder of any other name, where all have the same folders inside, `train` beside
    `my_train` with others, and `train` with folders inside beside images that nobody has sorted.
    """
    words = {child: split_words(child.name) for child in children}
    trains = [child for child in children if words[child][0] == "train" and len(_subfolders(child)) > 1]
    if len(trains) > 1 and any(words[child] == ("train", False) for child in trains):
        raise _look_like_splits(root, trains)
    _check_no_split_of_another(root, children, words)
    within = {child: {folder.name for folder in _subfolders(child)} for child in children}
    if len(children) > 1 and any(words[child][0] is not None and not words[child][1] for child in children):
        first, *others = within.values()
        if len(first) > 1 and all(names == first for names in others):
            raise _look_like_splits(root, children)
    _check_nothing_unsorted(root, {child: len(names) for child, names in within.items()}, words)
    alike = [child for child in children if words[child][0] is not None]
    if len({words[child][0] for child in alike}) < 2:
        return
    numbered = all(is_numbered(child.name) for child in alike)
    if not numbered and len(set.intersection(*(within[child] for child in alike))) < 2:
        return
    raise _look_like_splits(root, alike)


def _check_nothing_unsorted(
    root: Path, folders_inside: Mapping[Path, int], words: Mapping[Path, tuple[Split | None, bool]]
) -> None:
    """Refuses `train` with folders inside, and no image beside them, next to one folder without any, or to `unlabeled`."""
    for child, count in folders_inside.items():
        if words[child] != ("train", False) or count < 2 or _loose_images(child):
            continue
        flat = [other for other, inside in folders_inside.items() if other != child and not inside]
        unsorted = [other for other in flat if len(folders_inside) == 2 or other.name.lower() in _UNSORTED]
        if unsorted:
            raise _look_like_splits(root, [child, *unsorted])


def _check_no_split_of_another(
    root: Path, children: Sequence[Path], words: Mapping[Path, tuple[Split | None, bool]]
) -> None:
    """Refuses `flowers_train`, with folders inside, beside `flowers`: one is a part of the other's data set."""
    plain = {other_words(child.name): child for child in children if words[child][0] is None}
    for child in children:
        split, has_more = words[child]
        whole = plain.get(other_words(child.name)) if split is not None and has_more else None
        if whole is not None and len(_subfolders(child)) > 1:
            raise _look_like_splits(root, [whole, child])


def _look_like_splits(root: Path, folders: Sequence[Path]) -> DatasetError:
    return DatasetError(
        f"the folders of {root} look like train, val and test, not like classes",
        got=", ".join(repr(child.name) for child in folders[:5]),
        expected="folders named train/, val/ and test/ with class folders inside, or class folders only",
        hint="rename them, or name the folder of the classes",
    )


def _check_no_folds(root: Path, children: Sequence[Path]) -> None:
    """Refuses the folds of a cross-validation, which say nothing of classes."""
    folds = [child for child in children if _FOLD.fullmatch(child.name)]
    if len(folds) > 1 and len(folds) == len(children):
        raise DatasetError(
            f"the folders of {root} are folds of one data set, not classes",
            got=", ".join(repr(child.name) for child in folds[:5]),
            expected="class folders, or train/, val/ and test/ of these",
            hint="merge all but one as train/ and name that test/, or write a CSV with path,label,split",
        )


def _check_no_annotations(folder: Path, children: Sequence[Path]) -> None:
    """Refuses images/ with labels/ or masks/ beside it: data for detection or segmentation, whose folders are no classes."""
    names = {child.name.lower() for child in children}
    images = [child for child in children if child.name.lower() in _IMAGE_FOLDERS]
    if images and names & _ANNOTATION_FOLDERS and names <= _IMAGE_FOLDERS | _ANNOTATION_FOLDERS:
        raise DatasetError(
            f"the folders of {folder} are no classes",
            got=", ".join(f"{child.name}/" for child in children),
            expected="a folder for each class, with its images",
            hint=f"name {images[0]} if its folders are the classes, or write a CSV with path,label",
        )


# Alone or with one of the words below: train, training_set, Test-Data, seg_train, val images.
_TRAIN = """train training trn trainings trening trenings treningowy treningowe treningowa trenovaci traning tranings træning trænings
    entrenamiento entreno entrainement apprentissage addestramento allenamento treino treinamento egitim
    обучение обучения обучающая обучающий обучающие обучающее тренировка тренировочная тренировочный тренировочные трейн навчання
    训练 訓練 学習 훈련 학습 تدريب"""
_VAL = """val valid validation dev devel development eval evaluation validate validating validierung validierungs validacion
    validazione validacao validatie validering validerings walidacja walidacyjny walidacyjne walidacyjna validacni dogrulama
    валидация валидационная валидационный валидационные проверка проверочная проверочный проверочные
    验证 驗證 検証 評価 검증 평가 تحقق"""
_TEST = """test testing tests tst holdout heldout prueba pruebas teste testes testowy testowe testowa testovaci
    тест тесты тестовая тестовый тестовые тестирование
    测试 測試 テスト 테스트 시험 اختبار"""
_FILLERS_TEXT = """set sets data dataset datasets image images img imgs photo photos picture pictures pics seg folder dir part split subset
    samples sample files cropped resized daten datensatz bilder datos imagenes fotos donnees ensemble jeu dati immagini
    conjunto dados imagens dane zbior zdjecia veri verisi gegevens afbeeldingen
    выборка набор данные данных изображения фото
    集 数据 數據 数据集 數據集 資料 資料集 图片 图像 圖片 影像 样本 樣本 用 データ 用データ データセット 画像 用画像 セット 데이터 데이터셋 세트 셋 이미지 용"""


# Between words, never part of one: jeu d'entraînement, conjunto de teste.
_PARTICLES = frozenset(("d", "de", "du", "des", "da", "do", "di"))


def _plain(text: str) -> str:
    """A text in small letters without its accents: Entraînement, validación."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).lower()


_SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(_plain(_TRAIN).split(), "train"),
    # Validation is drawn from it, as from any train/ that comes without.
    "trainval": "train",
    **dict.fromkeys(_plain(_VAL).split(), "val"),
    **dict.fromkeys(_plain(_TEST).split(), "test"),
}
_FILLERS = frozenset(_plain(_FILLERS_TEXT).split())
_WORD = re.compile(r"[^\W\d_]+|\d+")
_YES_OR_NO_COLUMN = re.compile(r"is[_ -]?(train|training|test|val|valid|validation)", re.IGNORECASE)
_YES_OR_NO = frozenset(("0", "1", "0.0", "1.0", "true", "false", "yes", "no", "t", "f", "y", "n"))


def split_of_folder(name: str) -> Split | None:
    """The split that a folder's name says plainly; None for any other name."""
    split, has_more = split_words(name)
    return None if has_more else split


def split_words(name: str) -> tuple[Split | None, bool]:
    """The split that a word of a name is for, and whether the name has words that say something else."""
    found: Split | None = None
    has_more = False
    for word in _words(name):
        split = _split_of_word(word)
        if split is not None and found in {None, split}:
            found = split
        elif split is not None or word not in _FILLERS | _PARTICLES:
            has_more = True
    return found, has_more


def other_words(name: str) -> tuple[str, ...]:
    """The words of a name that are for no split, nor for data as such."""
    return tuple(word for word in _words(name) if _split_of_word(word) is None and word not in _FILLERS | _PARTICLES)


def says_nothing(name: str) -> bool:
    """Whether a name has words for data as such alone: `images`, `data`."""
    words = _words(name)
    return bool(words) and all(word in _FILLERS for word in words)


def is_numbered(name: str) -> bool:
    """Whether a name says a split and else numbers alone: `test1`, `val2017`."""
    return not split_words(re.sub(r"\d+", " ", name))[1]


def column_of_splits(columns: Mapping[str, Collection[str]]) -> str | None:
    """The column of a table that says the split of each row by its values - `Training`, `PublicTest` - or its name, `is_train`.

    Args:
        columns: The different values of each column.

    Returns:
        Its name; None where there is none.
    """
    for name, values in columns.items():
        if _YES_OR_NO_COLUMN.fullmatch(name) and {value.lower() for value in values} <= _YES_OR_NO:
            return name
        splits = {split_words(value)[0] for value in values}
        if len(splits) > 1 and "train" in splits and None not in splits:
            return name
    return None


def _words(name: str) -> list[str]:
    # TrainSet and trainset are train set.
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    if re.fullmatch(r"train[\s_.+&-]*val(id)?", spaced, re.IGNORECASE):
        spaced = "trainval"
    return _WORD.findall(_plain(spaced))


def _split_of_word(word: str) -> Split | None:
    return _SPLIT_WORDS.get(word) or _joined(word)


def _joined(word: str) -> Split | None:
    """The split of a word such as `trainset` and `testdata`."""
    return next(
        (
            split
            for text, split in _SPLIT_WORDS.items()
            if (word.startswith(text) and word[len(text) :] in _FILLERS)
            or (word.endswith(text) and word[: -len(text)] in _FILLERS)
        ),
        None,
    )
