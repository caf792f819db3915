use tokio::sync::oneshot;

use super::*;

fn threads() -> SlowThreads {
    SlowThreads::start(10).expect("threads start")
}

#[tokio::test]
async fn work_moves_to_threads_of_lower_priority_and_back() {
    let threads = threads();
    let usual = nice(0).expect("the priority");
    let work = async move {
        let mut seen = Vec::new();
        for is_wanted_slow in [true, true, false] {
            if with_current(|lane| lane.choose(is_wanted_slow)).expect("a lane") {
                yield_now().await;
            }
            seen.push((is_slow(), nice(0).expect("the priority")));
        }
        seen
    };
    let seen = Lane::default().run(Box::pin(work), threads.lane()).await.expect("the lane is there");
    let lower = (usual + 10).min(19);
    assert_eq!(seen, [(true, lower), (true, lower), (false, usual)]);
}

#[tokio::test]
async fn an_urgent_request_leaves_the_slow_lane() {
    let threads = threads();
    let work = async {
        with_current(|lane| lane.choose(true)).expect("a lane");
        yield_now().await;
        let before = is_slow();
        leave_slow().await;
        (before, is_slow())
    };
    assert_eq!(Lane::default().run(Box::pin(work), threads.lane()).await, Some((true, false)));
}

#[tokio::test]
async fn work_that_is_woken_from_elsewhere_goes_on_in_its_lane() {
    let threads = threads();
    let (moved, has_moved) = oneshot::channel();
    let (go_on, wait) = oneshot::channel::<()>();
    let work = async {
        with_current(|lane| lane.choose(true)).expect("a lane");
        yield_now().await;
        moved.send(()).expect("the test listens");
        wait.await.expect("the test goes on");
        is_slow()
    };
    let test = async {
        has_moved.await.expect("the work moves");
        go_on.send(()).expect("the work waits");
    };
    let (was_slow, ()) = tokio::join!(Lane::default().run(Box::pin(work), threads.lane()), test);
    assert_eq!(was_slow, Some(true));
}

#[tokio::test]
async fn work_that_is_given_up_is_dropped_in_the_slow_lane() {
    let threads = threads();
    let (moved, has_moved) = oneshot::channel();
    let (held, dropped) = oneshot::channel::<()>();
    let work = async move {
        let _held = held;
        with_current(|lane| lane.choose(true)).expect("a lane");
        yield_now().await;
        moved.send(()).expect("the test listens");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = Lane::default().run(Box::pin(work), threads.lane()) => panic!("it never ends"),
        moved = has_moved => moved.expect("the work moves"),
    }
    dropped.await.expect_err("the work is dropped");
}

#[tokio::test]
#[should_panic(expected = "in the slow lane")]
async fn a_panic_in_the_slow_lane_is_one_of_the_work() {
    let threads = threads();
    let work = async {
        with_current(|lane| lane.choose(true)).expect("a lane");
        yield_now().await;
        panic!("in the slow lane");
    };
    Lane::default().run(Box::pin(work), threads.lane()).await;
}

#[tokio::test]
async fn work_without_a_lane_stays() {
    assert_eq!(with_current(|_| ()), None);
    leave_slow().await;
    let threads = threads();
    let work = outside(async { with_current(|_| ()) });
    assert_eq!(Lane::default().run(Box::pin(work), threads.lane()).await, Some(None));
}

#[tokio::test]
async fn the_time_that_work_takes_is_counted_for_its_account() {
    let threads = threads();
    let accounts = [Account::default(), Account::default()];
    let long = Duration::from_millis(2);
    let counted = accounts.clone();
    let work = async move {
        for (account, is_slow) in counted.iter().zip([false, true]) {
            with_current(|lane| (lane.count_for(account), lane.choose(is_slow))).expect("a lane");
            // The time of a processor, by a clock that tests cannot stop.
            let begun = Instant::now();
            while begun.elapsed() < long {
                std::hint::spin_loop();
            }
            yield_now().await;
        }
    };
    Lane::default().run(Box::pin(work), threads.lane()).await.expect("an end");
    for account in &accounts {
        assert!(account.take() >= long);
        assert_eq!(account.take(), Duration::ZERO, "it is counted once");
    }
}
