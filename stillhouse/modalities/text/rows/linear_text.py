"""The yardstick without a neural network: TF-IDF of character n-grams and a linear classifier."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC


def linear_predictions(texts: list[str], labels: np.ndarray, test_texts: list[str]) -> tuple[np.ndarray, int]:
    """Predicted classes of `test_texts`, and the number of weights of the model.

    Character 1- to 4-grams inside the whole text, sublinear term frequency, one-against-rest linear SVM.
    """
    vectorizer = character_ngrams()
    features = vectorizer.fit_transform(texts)
    # Coordinate descent in an order drawn from `random_state`, on one thread: the same everywhere.
    classifier = LinearSVC(C=1.0, tol=1e-3, random_state=0).fit(features, labels)
    return np.asarray(classifier.predict(vectorizer.transform(test_texts))), int(classifier.coef_.size)


def linear_decisions(texts: list[str], labels_NL: np.ndarray, others: list[list[str]]) -> tuple[list[np.ndarray], int]:
    """Decision values, float32 (M, L), for each list of M texts in `others`, and the number of weights of the models.

    As `linear_predictions`, one SVM a label. labels: 1 where a text has the label. A label that all texts have, or none, is
    said of all texts, or of none.
    """
    vectorizer = character_ngrams()
    features = vectorizer.fit_transform(texts)
    asked = [vectorizer.transform(each) for each in others]
    results, weights = [np.empty((len(each), labels_NL.shape[1]), dtype=np.float32) for each in others], 0
    for label, column_N in enumerate(labels_NL.T):
        if column_N.min() == column_N.max():
            for result in results:
                result[:, label] = 1 if column_N.any() else -1
            continue
        classifier = LinearSVC(C=1.0, tol=1e-3, random_state=0).fit(features, column_N)
        weights += int(classifier.coef_.size)
        for result, matrix in zip(results, asked, strict=True):
            result[:, label] = classifier.decision_function(matrix)
    return results, weights


def character_ngrams() -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2, dtype=np.float32)  # pyright: ignore[reportArgumentType]
