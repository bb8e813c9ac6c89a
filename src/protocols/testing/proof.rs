//! What no conversation may lead to, however it is cut, joined late or torn: a wrong exchange. Missing is counted, wrong never.

use proptest::{prelude::*, sample::Index};

use super::{Collected, Conversation, OwnedExchange, golden::Call};
use crate::{
    model::Flags,
    protocols::{Opening, Parser},
};

/// What happens to a conversation on its way to the parser.
#[derive(Clone, Debug, Default)]
pub struct Mishap {
    /// Each call is cut there, into pieces of its own; positions in the whole conversation.
    pub cuts: Vec<Index>,
    /// The first piece that is seen.
    pub joined: Option<Index>,
    /// A piece that is not seen at all.
    pub missing: Option<Index>,
    /// Of each piece only so many bytes are captured.
    pub captured: Option<usize>,
}

impl Mishap {
    /// Cuts only: nothing is lost, so nothing may change.
    pub fn cuts() -> impl Strategy<Value = Self> {
        prop::collection::vec(any::<Index>(), 0..40).prop_map(|cuts| Self { cuts, ..Self::default() })
    }

    /// Cuts, a late start and one missing piece, each or not.
    pub fn any() -> impl Strategy<Value = Self> {
        let cuts = prop::collection::vec(any::<Index>(), 0..40);
        let captured = prop_oneof![3 => Just(None), 1 => (1_usize..600).prop_map(Some)];
        (cuts, any::<Option<Index>>(), any::<Option<Index>>(), captured).prop_map(|(cuts, joined, missing, captured)| Self {
            cuts,
            joined,
            missing,
            captured,
        })
    }

    /// The calls in their pieces.
    fn cut(&self, calls: &[Call]) -> Vec<Call> {
        let total: usize = calls.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(total.max(1))).collect();
        cuts.sort_unstable();
        let (mut pieces, mut begin) = (Vec::new(), 0);
        for (flow, bytes) in calls {
            let end = begin + bytes.len();
            let mut from = begin;
            for cut in cuts.iter().copied().filter(|cut| (begin + 1..end).contains(cut)) {
                if cut > from {
                    pieces.push((*flow, bytes[from - begin..cut - begin].to_vec()));
                    from = cut;
                }
            }
            pieces.push((*flow, bytes[from - begin..].to_vec()));
            begin = end;
        }
        pieces
    }

    /// What comes out of the conversation when this happens to it; `None` when the parser refused it.
    pub fn play(&self, parser: fn(Opening) -> Box<dyn Parser>, calls: &[Call]) -> Option<Collected> {
        let pieces = self.cut(calls);
        let joined = self.joined.map_or(0, |joined| joined.index(pieces.len().max(1)));
        let missing = self.missing.map(|missing| missing.index(pieces.len().max(1)));
        let mut talk = if joined > 0 { Conversation::adopted(parser, 0) } else { Conversation::opened(parser) };
        for (index, (flow, bytes)) in pieces.iter().enumerate().skip(joined) {
            if missing == Some(index) {
                talk.lost_call(*flow, bytes.len() as u64);
            } else {
                let captured = self.captured.unwrap_or(bytes.len()).min(bytes.len());
                talk.cut_call(*flow, &bytes[..captured], bytes.len() as u64);
            }
        }
        talk.close();
        (!talk.refused()).then(|| std::mem::take(&mut talk.seen))
    }
}

/// Holds a parser to the truth: after any mishap every exchange that comes out is one of the `truth` (each at most once), as `says` writes it.
/// Exchanges that own up to a gap, a cut or a missing answer are held to `admits` instead: what they still claim must be true.
///
/// # Panics
/// When an exchange is wrong.
#[track_caller]
pub fn assert_never_wrong(
    parser: fn(Opening) -> Box<dyn Parser>,
    calls: &[Call],
    mishap: &Mishap,
    says: fn(&OwnedExchange) -> String,
    admits: fn(&OwnedExchange, truth: &[OwnedExchange]) -> bool,
) {
    let truth = Mishap::default().play(parser, calls).expect("the parser takes the whole conversation").exchanges;
    let mut left: Vec<String> = truth.iter().map(says).collect();
    // A connection that is joined late may be taken for another protocol's; it is then nameless, not wrong.
    let Some(seen) = mishap.play(parser, calls) else { return };
    for exchange in &seen.exchanges {
        let cut = [Flags::GAP, Flags::TRUNCATED, Flags::UNANSWERED].into_iter().any(|flag| exchange.flags.contains(flag));
        let said = says(exchange);
        match left.iter().position(|true_one| *true_one == said) {
            Some(position) => drop(left.swap_remove(position)),
            None => assert!(cut && admits(exchange, &truth), "{mishap:?} made up {exchange:#?}\nof {truth:#?}"),
        }
    }
}
