"""VideotokModel: a diffusers model that still loads configs and weights written under older names."""

from collections import OrderedDict
from typing import Any, ClassVar

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin


class VideotokModel(ModelMixin, ConfigMixin):
    """Base of videotok's models: `from_pretrained` and `save_pretrained` (config.json and safetensors), as in diffusers.

    A subclass that renames an option or a parameter says so in the two tables below, so that folders saved by earlier
    versions load unchanged. Weight files are never rewritten for this: their sha256 identifies the ids in .vtok files.
    """

    renamed_options: ClassVar[dict[str, str]] = {}
    """Old name in config.json -> name of the constructor's argument today."""
    renamed_parameters: ClassVar[dict[str, str]] = {}
    """Old part of a name in the state dict, between dots -> part today. `{"words": "codes"}` turns `codebook.words`
    into `codebook.codes`."""

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a model from a config; see `diffusers.ConfigMixin.from_config`."""
        if isinstance(config, dict) and cls.renamed_options:
            config = {cls.renamed_options.get(name, name): value for name, value in config.items()}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def _fix_state_dict_keys_on_load(self, state_dict: "OrderedDict[str, Any]") -> None:
        super()._fix_state_dict_keys_on_load(state_dict)
        for name in list(state_dict):
            renamed = ".".join(self.renamed_parameters.get(part, part) for part in name.split("."))
            if renamed != name:
                state_dict[renamed] = state_dict.pop(name)
