"""The yardstick without a neural network: TF-IDF of character n-grams and a linear classifier."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC


def linear_predictions(texts: list[str], labels: np.ndarray, test_texts: list[str]) -> tuple[np.ndarray, int]:
    """Predicted classes of `test_texts`, and the number of weights of the model.

    Character 1- to 4-grams inside the whole text, sublinear term frequency, one-against-rest linear SVM.
    """
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2, dtype=np.float32)  # pyright: ignore[reportArgumentType]
    features = vectorizer.fit_transform(texts)
    # Coordinate descent in an order drawn from `random_state`, on one thread: the same everywhere.
    classifier = LinearSVC(C=1.0, tol=1e-3, random_state=0).fit(features, labels)
    return np.asarray(classifier.predict(vectorizer.transform(test_texts))), int(classifier.coef_.size)
