//! A ledger of a log that is cut.

use common::{
    event::{Carried, Event, Policy, PolicyEvent, Trimmed},
    lifecycle::State,
};

use super::*;
use crate::project::Cold;

fn cut(sequence: u64, floor: u64) -> Message {
    let policy = Policy::Trimmed(Trimmed {
        floor,
        as_of: 0,
        clock: NOW,
        pauses: Vec::new(),
        rates: Vec::new(),
    });
    let event = Event::Policy(PolicyEvent { actor: "test".into(), policy });
    read(sequence, common::subject::TRIMMED, common::wire::encode(&event))
}

#[tokio::test]
async fn the_floor_is_kept_and_an_id_below_it_is_new() {
    on_both(async |ledger, url| {
        let again = |n: u64| pb::TaskSpec { title: format!("number {n}"), ..shell("t") };
        let mut kept = fold(&*ledger).await.expect("a fold");
        let first = [message(1, created(again(1))), message(2, complete("t", 1))];
        apply_with(&*ledger, &mut kept, &first).await.expect("recorded");
        assert_eq!(find(&*ledger, "t").await.and_then(|row| row.live.ended_at), Some(2));
        let early = [message(3, created(again(3))), cut(4, 3)];
        let position = apply_with(&*ledger, &mut kept, &early).await.expect("recorded");
        assert_eq!((position.floor, position.cold_until), (3, 0));
        assert_eq!(
            find(&*ledger, "t").await.map(|row| row.fixed.spec.title),
            Some("number 1".into())
        );

        // By the fold that has seen the cut, and by one that begins where the ledger is.
        apply_with(&*ledger, &mut kept, &[message(5, created(again(5)))]).await.expect("recorded");
        let reopened = open(url).await.expect("a ledger");
        assert_eq!(reopened.position().await.expect("an answer").map(|p| p.floor), Some(3));
        apply(&*reopened, &[message(6, complete("t", 1)), cut(7, 7)]).await.expect("recorded");
        apply(&*reopened, &[message(8, created(again(8)))]).await.expect("recorded");
        let row = find(&*ledger, "t").await.expect("the task");
        assert_eq!((row.fixed.spec.title.as_str(), row.live.place.sequence), ("number 8", 8));
        assert_eq!(ledger.count(None).await.expect("a count"), 3, "every generation is kept");
        let mut by_state = ledger.stats().await.expect("counts").by_state;
        by_state.sort();
        assert_eq!(by_state, [("completed".to_owned(), 2), ("pending".to_owned(), 1)]);
        let history = ledger.history(Place { sequence: 1, index: 0 }, 10).await.expect("lines");
        let ignored: Vec<_> = history.iter().map(|e| e.ignored.as_ref()).collect();
        assert_eq!(ignored, ["", "", "another body under the same id"]);
    })
    .await;
}

#[tokio::test]
async fn what_was_carried_is_read_back_as_it_was_folded() {
    on_both(async |ledger, _| {
        let open = created(pb::TaskSpec { title: "open".into(), priority: Some(3), ..shell("o") });
        let Kind::Created(spec) = &open.kind else { return };
        let carried = |state, spec, ended_at| Carried {
            place: (2, 7),
            created_at: NOW,
            as_of: 11,
            state,
            due: Timestamp::default(),
            priority: 8,
            alone: false,
            worker: "w".into(),
            waits_on: Vec::new(),
            spec,
            ended_at,
        };
        let body = carried(State { tries: 2, ..State::created(false) }, Some(spec.clone()), 0);
        let over = State { phase: common::lifecycle::Phase::Skipped, ..State::created(false) };
        let over = Carried { place: (3, 0), ..carried(over, None, 9) };
        let carriers = [
            message(12, event("o", Kind::Carried(Box::new(body.clone())))),
            message(13, event("x", Kind::Carried(Box::new(over.clone())))),
        ];
        let key = |id: &str| {
            common::id::TaskKey::new(&Tenant::default(), &TaskId::parse(id).expect("an id"))
        };
        let mut cold = Cold::new(10, 20);
        cold.remember((12, 0), key("o"), &body);
        cold.remember((13, 0), key("x"), &over);
        let mut kept = fold(&*ledger).await.expect("a fold");
        kept.begin_at(cold);
        let batch = [message(10, created(shell("x"))), message(11, complete("o", 1))];
        assert_eq!(kept.wanted(&batch), [12, 13]);
        for carrier in &carriers {
            kept.thaw(carrier);
        }
        let position = apply_with(&*ledger, &mut kept, &batch).await.expect("recorded");
        assert_eq!((position.floor, position.cold_until), (0, 20));
        assert_eq!(ledger.position().await.expect("an answer"), Some(position));
        let row = find(&*ledger, "o").await.expect("the task");
        assert_eq!((row.live.place, row.live.life), (Place { sequence: 2, index: 7 }, body.state));
        assert_eq!((row.live.priority, row.live.created_at), (8, NOW));
        assert_eq!(row.fixed.spec, spec.as_pb().clone());
        let row = find(&*ledger, "x").await.expect("the other");
        assert_eq!((row.live.life.phase, row.live.ended_at), (over.state.phase, Some(9)));
        assert_eq!(row.fixed.executor, crate::row::UNKNOWN_EXECUTOR);
        let mut rest = carriers.to_vec();
        rest.push(cut(20, 10));
        let position = apply_with(&*ledger, &mut kept, &rest).await.expect("recorded");
        assert_eq!((position.floor, position.cold_until), (10, 0));
        let history = ledger.history(Place { sequence: 2, index: 7 }, 10).await.expect("lines");
        let lines: Vec<_> = history.iter().map(|e| (e.kind.as_ref(), e.ignored.as_ref())).collect();
        assert_eq!(lines, [("completed", "before what was carried"), ("carried", "")]);
        apply_with(&*ledger, &mut kept, &[message(21, created(shell("x")))])
            .await
            .expect("recorded");
        assert_eq!(find(&*ledger, "x").await.map(|row| row.live.place.sequence), Some(21));
    })
    .await;
}
