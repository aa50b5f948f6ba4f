"""Mean and standard deviation of pixels in [0, 1], for the red, green and blue channel, that normalize images."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Those of the released networks. CIFAR-10's deviations are the mean over single images, which is smaller than that of
# all pixels (0.247, 0.243, 0.262).
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4309, 0.4302, 0.4463), (0.1965, 0.1983, 0.1994)),
}
