//! The order of records in an answer: at random, those with more weight earlier.
//!
//! In: items with weights, and a bound. Out: at most so many of them. Clients that take the first record of
//! an answer thereby share the load as the weights say.
//!
//! What a draw needs to know of all items is computed once, when they are put together, so that a short draw
//! from many items costs as much as one from few.

use fastrand::Rng;

/// Draws that meet an item that was drawn already, for each item that is wanted, after which the rest is drawn
/// from a list of what is left.
const REPEATS: usize = 2;

/// Items with weights.
#[derive(Clone, Debug)]
pub(crate) struct Weighted<T> {
    items: Vec<T>,
    /// For each item the sum of its weight and those of all items before it. `None` when all weights are equal.
    sums: Option<Vec<u64>>,
}

impl<T> FromIterator<(T, u32)> for Weighted<T> {
    fn from_iter<I: IntoIterator<Item = (T, u32)>>(items: I) -> Self {
        let (items, weights): (Vec<T>, Vec<u32>) = items.into_iter().unzip();
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let sums = (!is_even).then(|| {
            let mut sum = 0;
            let add = |weight: u32| {
                // An item without weight would never be drawn, and an answer tells all that it has room for.
                sum += u64::from(weight.max(1));
                sum
            };
            weights.into_iter().map(add).collect()
        });
        Self { items, sums }
    }
}

impl<T> Weighted<T> {
    /// All items.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// Draws at most `most` items.
    pub(crate) fn draw(&self, most: usize, rng: &mut Rng) -> Vec<&T> {
        match &self.sums {
            None => draw_evenly(&self.items, most, rng),
            Some(sums) => {
                draw_by_weight(sums, most, rng).into_iter().map(|place| &self.items[place]).collect()
            }
        }
    }
}

fn draw_evenly<'a, T>(items: &'a [T], most: usize, rng: &mut Rng) -> Vec<&'a T> {
    if items.len() < 2 {
        return items.iter().take(most).collect();
    }
    // A stretch that begins anywhere is the cheapest sample of many.
    let start = rng.usize(..items.len());
    let mut drawn: Vec<_> = items[start..].iter().chain(&items[..start]).take(most).collect();
    rng.shuffle(&mut drawn);
    drawn
}

/// Draws places one after the other, each with the probability that its weight has among those that are left.
fn draw_by_weight(sums: &[u64], most: usize, rng: &mut Rng) -> Vec<usize> {
    let wanted = most.min(sums.len());
    if wanted > sums.len() / 2 {
        return draw_of_left(sums, 0..sums.len(), wanted, rng);
    }
    let mut drawn = Vec::with_capacity(wanted);
    let mut is_drawn = vec![false; sums.len()];
    let all = sums.last().copied().unwrap_or_default();
    // A place that comes again is passed over, which leaves the others their probabilities.
    let mut repeats = 0;
    while drawn.len() < wanted && repeats < REPEATS * wanted {
        let spot = rng.u64(..all);
        let place = sums.partition_point(|sum| *sum <= spot);
        if std::mem::replace(&mut is_drawn[place], true) {
            repeats += 1;
        } else {
            drawn.push(place);
        }
    }
    // Few items may have nearly all of the weight.
    let missing = wanted - drawn.len();
    if missing > 0 {
        let left = (0..sums.len()).filter(|place| !is_drawn[*place]);
        drawn.extend(draw_of_left(sums, left, missing, rng));
    }
    drawn
}

/// Efraimidis and Spirakis: the items with the greatest `ln(u) / weight` are a weighted draw without
/// returning what was drawn.
fn draw_of_left(sums: &[u64], left: impl Iterator<Item = usize>, most: usize, rng: &mut Rng) -> Vec<usize> {
    let weight = |place: usize| sums[place] - place.checked_sub(1).map_or(0, |before| sums[before]);
    let mut keyed: Vec<(f64, usize)> = left
        // The random number is below one and may be zero, whose logarithm is less than any other. A weight has
        // 32 bits, so that no digit of it is lost.
        .map(|place| (rng.f64().ln() / weight(place) as f64, place))
        .collect();
    if (1..keyed.len()).contains(&most) {
        keyed.select_nth_unstable_by(most, |a, b| b.0.total_cmp(&a.0));
    }
    keyed.truncate(most);
    keyed.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    keyed.into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use fastrand::Rng;

    fn weighted(weights: &[u32]) -> Weighted<usize> {
        weights.iter().copied().enumerate().collect()
    }

    /// The times that each item came at a place of a draw of so many.
    fn comes(weights: &[u32], most: usize, place: usize) -> Vec<u32> {
        let mut rng = Rng::with_seed(7);
        let items = weighted(weights);
        let mut comes = vec![0; weights.len()];
        for _ in 0..10_000 {
            comes[*items.draw(most, &mut rng)[place]] += 1;
        }
        comes
    }

    #[test]
    fn each_item_comes_first_as_often_as_its_weight_says() {
        let even = comes(&[5, 5], 2, 0)[0];
        assert!((4700..5300).contains(&even), "{even}");
        let heavy = comes(&[90, 10], 2, 0)[0];
        assert!((8700..9300).contains(&heavy), "{heavy}");
        // Of many, in an answer that has room for few.
        let weights: Vec<u32> = (0..1000).map(|number| if number < 10 { 900 } else { 10 }).collect();
        let heavy: u32 = comes(&weights, 5, 0)[..10].iter().sum();
        let expected = 10_000 * 9000 / (9000 + 9900);
        assert!(heavy.abs_diff(expected) < 300, "{heavy} instead of {expected}");
    }

    #[test]
    fn what_was_drawn_leaves_the_others_their_shares() {
        // The first one has nearly everything, so that the rest is drawn from what is left: of all items, and of
        // many.
        for (times, most) in [(1, 3), (3, 3)] {
            let weights: Vec<u32> = [1_000_000].into_iter().chain([60, 30, 10].repeat(times)).collect();
            let second = comes(&weights, most, 1);
            let of_kind = |kind: usize| second[1..].iter().skip(kind).step_by(3).sum::<u32>();
            assert!(of_kind(0).abs_diff(6000) < 300 && of_kind(2).abs_diff(1000) < 150, "{second:?}");
        }
        // And here by passing over what comes again.
        let weights: Vec<u32> = [60, 30, 10].into_iter().chain([1; 100]).collect();
        let first_two = comes(&weights, 2, 0)[0] + comes(&weights, 2, 1)[0];
        // 60/200 at first, and then 60 of what 200 leaves without the first.
        let then = [(30.0, 1.0), (10.0, 1.0), (1.0, 100.0)]
            .map(|(weight, count)| count * weight / 200.0 * 60.0 / (200.0 - weight));
        let expected = (10_000.0 * (0.3 + then.iter().sum::<f64>())) as u32;
        assert!(first_two.abs_diff(expected) < 300, "{first_two} instead of {expected}");
    }

    proptest! {
        #[test]
        fn a_draw_repeats_nothing(weights in prop::collection::vec(0..400_u32, 0..40), most in 0..50_usize) {
            let items = weighted(&weights);
            let drawn = items.draw(most, &mut Rng::with_seed(1));
            let different: BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(drawn.len(), weights.len().min(most));
            prop_assert_eq!(different.len(), drawn.len());
        }
    }
}
