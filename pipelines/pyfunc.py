"""The model that the MLflow registry serves: an emulator's mean and standard deviation, one column per output.

MLflow copies this file into every registered model and runs it there (models from code), so it holds no weights and
no pickle. `emulate.loading.load` does not need it: it reads the emulator's own folder beside it.
"""

import mlflow.pyfunc
import pandas
import torch
from mlflow.models import set_model

from emulate.loading import load


class _Served(mlflow.pyfunc.PythonModel):
    """One column per parameter in; for each output its mean and `<output>_sd` out."""

    def load_context(self, context):
        self.emulator = load(context.artifacts["emulator"])

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        theta = torch.tensor(model_input[list(self.emulator.space.names)].to_numpy(dtype="float64"))
        with torch.no_grad():
            prediction = self.emulator.predict(theta)
        labels = self.emulator.outputs.labels
        columns = dict(zip(labels, prediction.mean.numpy().T, strict=True))
        columns |= dict(zip((f"{n}_sd" for n in labels), prediction.variance.sqrt().numpy().T, strict=True))
        return pandas.DataFrame(columns, index=model_input.index)


set_model(_Served())
