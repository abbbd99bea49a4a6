"""Ten easy classes of ImageNet: the recipe of Imagewoof under the name of these data. `gander cp` copies that one."""

from gander.recipes.imagewoof import recipe as recipe
