//! Strokes thicker or thinner: grey dilation and erosion.
//!
//! Input: a picture of light strokes, and by how many pixels each edge moves. Output: the picture. Between whole
//! pixels the two nearest are mixed.

/// Each edge of what is light moves outwards by so many pixels, or inwards where `by` is below 0.
pub(super) fn thicken(picture: &mut [f32], size: usize, by: f32) {
    match by > 0.0 {
        true => in_steps(picture, size, by, |a, b| if a > b { a } else { b }),
        false => in_steps(picture, size, -by, |a, b| if a < b { a } else { b }),
    }
}

/// By whole pixels, and by the part of one that is left; `pick` is the greatest of two, or the least.
fn in_steps(picture: &mut [f32], size: usize, by: f32, pick: impl Fn(f32, f32) -> f32 + Copy) {
    let mut next = vec![0.0; picture.len()];
    let mut left = by;
    while left > 0.0 {
        step(picture, &mut next, size, pick);
        let part = left.min(1.0);
        for (old, new) in picture.iter_mut().zip(&next) {
            *old += part * (new - *old);
        }
        left -= 1.0;
    }
}

/// What `pick` picks of each pixel and its eight neighbours; beyond the edges there is nothing.
fn step(from: &[f32], to: &mut [f32], size: usize, pick: impl Fn(f32, f32) -> f32) {
    // The row's picks of each column, and at both ends once more.
    let mut columns = vec![0.0; size + 2];
    for (y, to) in to.chunks_exact_mut(size).enumerate() {
        let inner = &mut columns[1..=size];
        inner.copy_from_slice(&from[y * size..][..size]);
        for other in [y.wrapping_sub(1), y + 1].into_iter().filter(|&other| other < size) {
            for (column, &x) in inner.iter_mut().zip(&from[other * size..][..size]) {
                *column = pick(*column, x);
            }
        }
        (columns[0], columns[size + 1]) = (columns[1], columns[size]);
        let (left, right) = (&columns[..size], &columns[2..]);
        for (((to, &left), &here), &right) in to.iter_mut().zip(left).zip(&columns[1..]).zip(right)
        {
            *to = pick(pick(left, right), here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_move_by_whole_and_by_parts_of_pixels() {
        let dot = |by: f32| {
            let mut picture = vec![0.0; 49];
            picture[24] = 1.0;
            thicken(&mut picture, 7, by);
            picture
        };
        let sum = |picture: &[f32]| picture.iter().sum::<f32>();
        assert_eq!(sum(&dot(0.0)), 1.0);
        assert_eq!(sum(&dot(1.0)), 9.0);
        assert_eq!(sum(&dot(0.5)), 1.0 + 0.5 * 8.0);
        assert_eq!(sum(&dot(1.5)), 9.0 + 0.5 * 16.0);
        assert_eq!(sum(&dot(-1.0)), 0.0);
        assert_eq!(dot(-0.25)[24], 0.75);
        // What fills the picture has no edge to be thinned at.
        let mut full = vec![1.0; 49];
        thicken(&mut full, 7, -1.0);
        assert_eq!(sum(&full), 49.0);
    }
}
