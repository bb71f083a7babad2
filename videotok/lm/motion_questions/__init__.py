"""Videos of known motion and the questions about them: scenes, their footage, as labeled videos, as ids."""
