"""The peer: the textbook GAN in Keras 3 on TensorFlow. Prints one JSON line of steps a second.

python benchmarks/keras_gan.py fit  BATCH STEPS    a compiled custom train_step under Model.fit
python benchmarks/keras_gan.py loop BATCH STEPS    the tutorial's own loop: predict, then three train_on_batch
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf
from keras import layers


def networks() -> tuple[keras.Model, keras.Model]:
    widths = [(256, "relu"), (512, "relu"), (1024, "relu"), (784, "sigmoid")]
    generator = keras.Sequential([keras.Input((100,)), *(layers.Dense(n, activation=a) for n, a in widths)])
    critic = keras.Sequential(
        [
            keras.Input((784,)),
            *(layers.Dense(n, activation=a) for n, a in [(512, "relu"), (256, "relu"), (1, "sigmoid")]),
        ]
    )
    return generator, critic


class GAN(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = networks()
        self.loss_fn = keras.losses.BinaryCrossentropy()

    def compile(self) -> None:
        super().compile()
        self.g_optimizer, self.d_optimizer = keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3)

    def train_step(self, real: tf.Tensor) -> dict[str, tf.Tensor]:
        n = tf.shape(real)[0]
        fake = self.generator(tf.random.normal((n, 100)))
        with tf.GradientTape() as tape:
            p = self.critic(tf.concat([real, fake], 0))
            d_loss = self.loss_fn(tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], 0), p)
        weights = self.critic.trainable_weights
        self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(tf.ones((n, 1)), self.critic(self.generator(tf.random.normal((n, 100)))))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights, strict=True))
        return {"d": d_loss, "g": g_loss}


def fit(real: np.ndarray, batch: int, steps: int) -> float:
    gan = GAN()
    gan.compile()
    data = (
        tf.data.Dataset.from_tensor_slices(real)
        .shuffle(len(real))
        .batch(batch, drop_remainder=True)
        .repeat()
        .prefetch(2)
    )
    gan.fit(data, steps_per_epoch=20, epochs=1, verbose=0)
    start = time.perf_counter()
    gan.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
    return steps / (time.perf_counter() - start)


def loop(real: np.ndarray, batch: int, steps: int) -> float:
    generator, critic = networks()
    critic.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(1e-3))
    critic.trainable = False
    both = keras.Sequential([keras.Input((100,)), generator, critic])
    both.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(1e-3))
    critic.trainable = True
    rng = np.random.default_rng(0)

    def one() -> None:
        fake = generator.predict(rng.normal(size=(batch, 100)), verbose=0)
        critic.train_on_batch(real[rng.integers(0, len(real), batch)], np.ones((batch, 1)))
        critic.train_on_batch(fake, np.zeros((batch, 1)))
        both.train_on_batch(rng.normal(size=(batch, 100)), np.ones((batch, 1)))

    for _ in range(5):
        one()
    start = time.perf_counter()
    for _ in range(steps):
        one()
    return steps / (time.perf_counter() - start)


if __name__ == "__main__":
    way, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pictures = np.random.default_rng(0).random((10_000, 784), np.float32)  # the values do not change the work
    rate = {"fit": fit, "loop": loop}[way](pictures, batch, steps)
    print(json.dumps({"steps_per_second": rate, "keras": keras.__version__, "tensorflow": tf.__version__}))
