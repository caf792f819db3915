//! The order of records in an answer: at random, those with more weight earlier.
//!
//! In: items with weights, and a bound. Out: at most so many of them. Clients that take the first record of
//! an answer thereby share the load as the weights say.

use fastrand::Rng;

/// Draws at most `most` items.
pub(crate) fn draw<'a, T>(items: &'a [(T, u32)], most: usize, rng: &mut Rng) -> Vec<&'a (T, u32)> {
    let is_even = items.windows(2).all(|pair| pair[0].1 == pair[1].1);
    if is_even { draw_evenly(items, most, rng) } else { draw_by_weight(items, most, rng) }
}

fn draw_evenly<'a, T>(items: &'a [(T, u32)], most: usize, rng: &mut Rng) -> Vec<&'a (T, u32)> {
    if items.len() < 2 {
        return items.iter().take(most).collect();
    }
    // A stretch that begins anywhere is the cheapest sample of many.
    let start = rng.usize(..items.len());
    let mut drawn: Vec<_> = items[start..].iter().chain(&items[..start]).take(most).collect();
    rng.shuffle(&mut drawn);
    drawn
}

/// Efraimidis and Spirakis: the items with the greatest `ln(u) / weight` are a weighted draw without
/// returning what was drawn.
fn draw_by_weight<'a, T>(items: &'a [(T, u32)], most: usize, rng: &mut Rng) -> Vec<&'a (T, u32)> {
    let mut keyed: Vec<_> = items
        .iter()
        // The random number is below one and may be zero, whose logarithm is less than any other.
        .map(|item| (rng.f64().ln() / f64::from(item.1.max(1)), item))
        .collect();
    if (1..keyed.len()).contains(&most) {
        keyed.select_nth_unstable_by(most, |a, b| b.0.total_cmp(&a.0));
    }
    keyed.truncate(most);
    keyed.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use fastrand::Rng;

    /// The times that each of two items came first.
    fn firsts(weights: [u32; 2]) -> [u32; 2] {
        let mut rng = Rng::with_seed(7);
        let items = [(0, weights[0]), (1, weights[1])];
        let mut firsts = [0; 2];
        for _ in 0..10_000 {
            firsts[draw(&items, 2, &mut rng)[0].0] += 1;
        }
        firsts
    }

    #[test]
    fn each_item_comes_first_as_often_as_its_weight_says() {
        let [even, _] = firsts([5, 5]);
        assert!((4700..5300).contains(&even), "{even}");
        let [heavy, _] = firsts([90, 10]);
        assert!((8700..9300).contains(&heavy), "{heavy}");
    }

    proptest! {
        #[test]
        fn a_draw_repeats_nothing(weights in prop::collection::vec(1..4_u32, 0..40), most in 0..50_usize) {
            let items: Vec<_> = weights.iter().copied().enumerate().collect();
            let drawn = draw(&items, most, &mut Rng::with_seed(1));
            let different: BTreeSet<_> = drawn.iter().map(|(item, _)| *item).collect();
            prop_assert_eq!(drawn.len(), items.len().min(most));
            prop_assert_eq!(different.len(), drawn.len());
        }
    }
}
