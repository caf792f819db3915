//! Sessions of the model that were away and resume from what they are certain of.

use std::collections::HashMap;
use std::sync::Arc;

use control_plane::responder::answer::InterestOf;
use control_plane::responder::departures;
use control_plane::view::View;
use shared::event::Position;
use shared::model::{Revision, ServiceRef};

use super::super::{Added, Departed, Missing};
use super::{Question, Sim, Want};
use crate::push::Push;
use crate::upstream::topic::Replayed;
use crate::watch::Selector;

/// One that resumes.
pub(super) struct Resumed {
    since: Revision,
    known: HashMap<ServiceRef, Replayed>,
    asking: bool,
    /// What it was told since it has its place.
    told: Option<Vec<Arc<Push>>>,
    /// It was told a state instead of changes.
    stated: bool,
}

impl Resumed {
    /// What its group is told, once it has its place.
    pub(super) fn tell(&mut self, push: &Arc<Push>) {
        if let Some(told) = &mut self.told {
            told.push(push.clone());
        }
    }

    /// A replica told what it missed of a provider.
    pub(super) fn answered(&mut self, provider: ServiceRef, replayed: Replayed) {
        self.asking = false;
        self.known.insert(provider, replayed);
    }

    pub(super) fn has_joined(&self) -> bool {
        self.told.is_some()
    }
}

impl Sim {
    /// One that left some time ago is back, or comes from another gateway, with what it was certain of there.
    pub(super) fn come_back(&mut self) {
        let opened = self.opened.unwrap_or(Revision::MAX);
        let certain: Vec<Revision> = self.certain.iter().copied().filter(|rev| *rev >= opened).collect();
        if certain.is_empty() {
            return;
        }
        let since = certain[self.dice.usize(0..certain.len())];
        let known = HashMap::new();
        self.resumed.push(Resumed { since, known, asking: false, told: None, stated: false });
        self.resume();
    }

    /// Lets those go on who can be told what they missed, as the upstream does after each step.
    pub(super) fn resume(&mut self) {
        for who in 0..self.resumed.len() {
            let it = &mut self.resumed[who];
            if it.told.is_some() {
                continue;
            }
            match self.core.preface(self.group, it.since, &it.known) {
                None => self.core.hasten(self.group, it.since),
                Some(Ok(preface)) => {
                    it.stated = preface.void || !preface.states.is_empty();
                    it.told = Some(preface.events);
                }
                Some(Err(Missing::Events(_))) if it.asking => {}
                Some(Err(Missing::Events(wants))) => {
                    it.asking = true;
                    self.questions.push((self.core.seen(), Question::Missed(who, wants)));
                }
                Some(Err(Missing::Departed)) => {
                    let waits = self.resumed.iter().filter(|it| it.told.is_none());
                    let since = waits.map(|it| it.since).min().unwrap_or_default();
                    let asked = |(_, it): &(Revision, Question)| {
                        matches!(it, Question::Departed(_) | Question::Left(..))
                    };
                    if !self.questions.iter().any(asked) {
                        self.questions.push((self.core.seen(), Question::Departed(since)));
                    }
                }
            }
        }
    }

    /// Who left since, says a replica.
    pub(super) fn who_left(&self, view: &View, since: Revision) -> (Departed, Vec<(ServiceRef, Revision)>) {
        let Selector::Scope(scope) = &self.selector else { panic!("a scope is watched") };
        let rev = view.now().expect("listed").revision;
        let left = departures::of(view.history(), &InterestOf::Scope(scope.clone()), since, rev);
        let departed = Departed { since, after: left.complete_after.max(since), rev, events: Vec::new() };
        (departed, left.providers.into_iter().collect())
    }

    /// What happened to them until then, says perhaps another one; `None` when it cannot.
    pub(super) fn departed(
        &mut self,
        view: &View,
        mut departed: Departed,
        left: Vec<(ServiceRef, Revision)>,
    ) -> Option<Departed> {
        let since = Position::end_of(departed.after);
        for (provider, until) in left {
            let want = Want { provider, since, snapshot: false };
            let replayed = self.replay(view, &want);
            match departed.add(&self.selector, &want.provider, until, &replayed) {
                Added::Told => {}
                Added::Forgotten => break,
                Added::Behind => return None,
            }
        }
        departed.events.sort_by_key(|(_, push)| push.at);
        Some(departed)
    }

    /// One that resumed is told what comes after its revision like one that never left, but for whole lives of
    /// services that were deleted. One that was told a state instead of changes is judged by that alone.
    pub(super) fn judge_resumed(&self, it: &Resumed) -> Result<(), String> {
        let told = it.told.as_ref().ok_or("one that resumes waits for ever")?;
        let context = |error| format!("resumed from {}: {error}", it.since);
        if let Some(old) = told.iter().find(|push| push.at.rev <= it.since) {
            return Err(context(format!("told {:?}, which it had", old.at)));
        }
        if it.stated {
            return Ok(());
        }
        self.judge_told(told, it.since, true).map_err(context)?;
        match self.merged {
            true => Ok(()),
            false => self.judge_complete(told, it.since).map_err(context),
        }
    }
}
