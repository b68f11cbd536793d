"""How is the imbalance of the labeled images countered? Each file is one answer."""

from daso_tf.balance.abc import ABC
from daso_tf.balance.acr import ACR
from daso_tf.balance.balanced_head import BalancedHead
from daso_tf.balance.class_balanced import ClassBalancedLoss
from daso_tf.balance.cossl import CoSSL
from daso_tf.balance.ldam import LDAMLoss
from daso_tf.balance.logit_adjustment import LogitAdjustedLoss
from daso_tf.balance.supervised_loss import SupervisedLoss

__all__ = [
    "ABC",
    "ACR",
    "BalancedHead",
    "ClassBalancedLoss",
    "CoSSL",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "SupervisedLoss",
]
