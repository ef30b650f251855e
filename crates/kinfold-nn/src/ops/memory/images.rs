//! Images of a batch as they lie in memory, `[n, channels, height, width]` with any strides, and
//! copies of them with their channels last.

use std::ops::Range;

/// A batch of images that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images<'a> {
    /// The first number is that of the first image's first channel.
    pub(crate) numbers: &'a [f32],
    /// `[n, channels, height, width]`, as are the strides.
    pub(crate) shape: [usize; 4],
    pub(crate) strides: [usize; 4],
}

/// Strides of channels last.
pub(crate) fn channels_last([_, c, h, w]: [usize; 4]) -> [usize; 4] {
    [h * w * c, 1, w * c, c]
}

/// Where a copy of an image has it: so many rows and columns, the image's own from `before` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) before: [usize; 2],
    pub(crate) size: [usize; 2],
}

impl Images<'_> {
    /// Whether the channels lie last, and nothing in between.
    pub(crate) fn are_channels_last(&self) -> bool {
        let wanted = channels_last(self.shape);
        (0..4).all(|i| self.shape[i] == 1 || self.strides[i] == wanted[i])
    }

    /// Copies `channels` of `images` to `to`, channels last, `width` numbers a pixel; the frame
    /// around them and numbers beyond their channels become 0.
    pub(crate) fn copy(
        &self,
        images: Range<usize>,
        channels: Range<usize>,
        frame: &Frame,
        width: usize,
        to: &mut [f32],
    ) {
        let [_, _, height, columns] = self.shape;
        let row = frame.size[1] * width;
        for (at, image) in images.enumerate() {
            for y in 0..frame.size[0] {
                let to = &mut to[(at * frame.size[0] + y) * row..][..row];
                match y.checked_sub(frame.before[0]) {
                    Some(y) if y < height && frame.before[1] < frame.size[1] => {
                        let (left, rest) = to.split_at_mut(frame.before[1] * width);
                        let within = columns.min(rest.len() / width);
                        let (row, right) = rest.split_at_mut(within * width);
                        left.fill(0.0);
                        right.fill(0.0);
                        self.copy_row(image, y, channels.clone(), width, row);
                    }
                    _ => to.fill(0.0),
                }
            }
        }
    }

    fn copy_row(
        &self,
        image: usize,
        y: usize,
        channels: Range<usize>,
        width: usize,
        to: &mut [f32],
    ) {
        let [_, of_channel, of_row, of_column] = [0, 1, 2, 3].map(|i| self.strides[i]);
        let start = image * self.strides[0] + y * of_row + channels.start * of_channel;
        let from = &self.numbers[start..];
        let (count, columns) = (channels.len(), to.len() / width);
        if of_channel == 1 && of_column == count && width == count {
            to.copy_from_slice(&from[..to.len()]);
            return;
        }
        if of_channel == 1 {
            for (x, to) in to.chunks_exact_mut(width).enumerate() {
                to[..count].copy_from_slice(&from[x * of_column..][..count]);
                to[count..].fill(0.0);
            }
            return;
        }
        // A few channels at a time: what is read and what is written is then used line by line.
        for first in (0..count).step_by(16) {
            for x in 0..columns {
                for c in first..count.min(first + 16) {
                    to[x * width + c] = from[c * of_channel + x * of_column];
                }
            }
        }
        if count < width {
            to.chunks_exact_mut(width).for_each(|to| to[count..].fill(0.0));
        }
    }
}
