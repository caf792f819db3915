//! Who hears of an event, without the bus, for the micro-benches.

use shared::event::{InstanceEvent, Position};
use shared::model::{ServiceRef, Tenant};

use super::Selector;
use super::core::{Core, Effect, Interest};
use super::topic::Replayed;

/// Consumers that are interested in some of many providers.
pub struct Lookup {
    core: Core,
}

impl Lookup {
    /// So many consumers with a watch each; consumer `n` is interested in `each` providers from `n` on, out of so
    /// many, around.
    pub fn new(consumers: usize, providers: usize, each: usize) -> Self {
        let mut core = Core::new(2);
        for number in 0..consumers {
            let consumer = ServiceRef::new(Tenant::default(), format!("consumer-{number}"));
            let (group, _) = core.join(&Selector::Consumer(consumer));
            core.take_effects();
            let providers = (0..each).map(|n| provider((number + n) % providers)).collect();
            core.on_interest(group, Interest { exists: true, rev: 1, providers });
            for effect in core.take_effects() {
                let Effect::OpenTopics(wants) = effect else { continue };
                for want in wants {
                    let replayed = Replayed { continuous: true, at: want.since, ..Replayed::default() };
                    core.on_loaded(&want.provider, want.since, replayed);
                }
            }
        }
        core.take_effects();
        Self { core }
    }

    /// An event of a provider at this revision; gives how many groups are to be told.
    pub fn event(&mut self, number: usize, rev: u64, like: &InstanceEvent) -> usize {
        // It claims to follow anything: a hole would have to be asked for.
        let (at, prev) = (Position::first_of(rev), Position::default());
        let event = InstanceEvent { provider: provider(number), at, prev, mod_rev: rev, ..like.clone() };
        self.core.on_event(event);
        let told = self.core.take_effects().into_iter().map(|effect| match effect {
            Effect::Append(_, groups) => groups.len(),
            _ => 0,
        });
        told.sum()
    }
}

fn provider(number: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("provider-{number}"))
}
