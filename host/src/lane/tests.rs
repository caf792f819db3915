use tokio::sync::oneshot;

use super::*;

fn threads() -> SlowThreads {
    SlowThreads::start(10, &Handle::current()).expect("threads start")
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

/// Takes every thread of the slow lane until the sender is dropped.
async fn take_all(threads: &SlowThreads) -> std::sync::mpsc::SyncSender<()> {
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(1);
    let held = Arc::new(Mutex::new(held));
    let count = available_parallelism().map_or(1, NonZero::get);
    let (taken, mut all) = tokio::sync::mpsc::channel(count);
    for _ in 0..count {
        let (held, taken) = (held.clone(), taken.clone());
        threads.lane().0.spawn(async move {
            taken.send(()).await.expect("the test counts them");
            held.lock().recv().expect_err("the sender is dropped");
        });
    }
    for _ in 0..count {
        all.recv().await.expect("each thread is taken");
    }
    hold
}

#[tokio::test]
async fn what_others_wait_for_ends_while_no_thread_of_the_slow_lane_is_free() {
    let threads = threads();
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    let (asked, has_asked) = oneshot::channel();
    let (answer, answered) = oneshot::channel::<()>();
    let slow_turn = turn.clone();
    let slow = threads.lane().0.spawn(in_usual(async move {
        let _turn = slow_turn.lock().await;
        asked.send(()).expect("the test listens");
        answered.await.expect("the test answers");
    }));
    has_asked.await.expect("the slow request has its turn");
    let hold = take_all(&threads).await;
    answer.send(()).expect("it waits for this");
    let others = tokio::time::timeout(Duration::from_secs(10), turn.lock()).await;
    let is_given_back = others.is_ok();
    drop((others, hold));
    slow.await.expect("an end");
    assert!(is_given_back, "others wait for a thread of the slow lane");
}

#[tokio::test]
async fn tasks_run_in_the_usual_lane_whoever_begins_them() {
    let threads = threads();
    let tasks = crate::lifecycle::Tasks::new();
    let (sender, mut lanes) = tokio::sync::mpsc::channel(3);
    let begin = {
        let tasks = tasks.clone();
        async move {
            assert!(is_slow());
            let told = || {
                let sender = sender.clone();
                async move { sender.send(is_slow()).await.expect("the test listens") }
            };
            tasks.spawn(told());
            tasks.spawn_named("named", told());
            tasks.spawn_vital("vital", told());
        }
    };
    threads.lane().0.spawn(begin).await.expect("begins them");
    for _ in 0..3 {
        assert_eq!(lanes.recv().await, Some(false));
    }
    assert!(tasks.finish(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn each_lane_has_its_own() {
    let threads = threads();
    let each = Arc::new(ForEach::new(|| AtomicU64::new(0)));
    each.here().store(1, Ordering::Relaxed);
    let there = each.clone();
    threads.lane().0.spawn(async move { there.here().store(2, Ordering::Relaxed) }).await.expect("an end");
    let of = |one: &AtomicU64| one.load(Ordering::Relaxed);
    assert_eq!((of(&each.usual), of(&each.slow), of(each.here())), (1, 2, 1));
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
            // The time of a processor, by clocks that tests cannot stop.
            let (begun, processor) = (Instant::now(), processor_time());
            while begun.elapsed() < long || processor_time() < processor + long {
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

#[tokio::test]
async fn a_thread_of_the_slow_lane_that_gets_no_processor_is_not_busy() {
    let threads = threads();
    let account = Account::default();
    let counted = account.clone();
    let asleep = Duration::from_millis(200);
    let work = async move {
        with_current(|lane| (lane.count_for(&counted), lane.choose(true))).expect("a lane");
        yield_now().await;
        // As when the kernel runs another one.
        std::thread::sleep(asleep);
    };
    Lane::default().run(Box::pin(work), threads.lane()).await.expect("an end");
    assert!(account.take() < asleep);
}
