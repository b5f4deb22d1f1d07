"""What the name of a folder, or a value in a table, says of a split: `training_set`, `Test-Daten`, `обучающая выборка`, `测试集`."""

import re
import unicodedata
from collections.abc import Collection, Mapping

from edgeclf.training.data.dataset import Split

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
