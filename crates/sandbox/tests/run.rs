//! A person runs a program in a container.

mod support;

use serde_json::json;
use support::Bundle;

#[test]
fn the_program_sees_its_own_world() {
    let bundle = Bundle::new("hostname; id -u; pwd; echo $$; ls /; echo $HOME");
    let output = bundle.run();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..4], ["stratus", "0", "/", "1"]);
    assert!(lines.contains(&"bin") && lines.contains(&"proc"));
    assert!(!bundle.path("state").join(&bundle.id).exists(), "nothing is left");
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/pids/sandbox-test-{}", bundle.id)).exists());
}

#[test]
fn the_exit_status_is_the_programs() {
    assert_eq!(Bundle::new("exit 42").run_any().status.code(), Some(42));
    // As PID 1 it would not take the signal from within.
    assert_eq!(Bundle::new("sh -c 'kill -9 $$'; exit $?").run_any().status.code(), Some(137));
}

#[test]
fn a_missing_program_is_127_and_one_that_is_none_126() {
    let mut bundle = Bundle::new("");
    for (args, code, text) in [
        (json!(["nosuch"]), 127, "exec: \"nosuch\": executable file not found in $PATH"),
        (json!(["/nosuch"]), 127, "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        (json!(["/bin"]), 126, "exec: \"/bin\": permission denied"),
    ] {
        bundle.spec["process"]["args"] = args;
        let output = bundle.run_any();
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).contains(&text.replace('"', "\\\"")), "{output:?}");
    }
}

#[test]
fn the_user_has_its_ids_groups_mask_and_no_privileges() {
    let mut bundle = Bundle::new("id -u; id -g; id -G; umask; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status");
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [7, 8] });
    let output = bundle.run();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..4], ["1000", "1001", "1001 7 8", "0027"]);
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(output.contains("CapBnd:\t0000000020000420"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
}

#[test]
fn ambient_capabilities_survive_for_an_ordinary_user() {
    let mut bundle = Bundle::new("grep -E 'CapEff|CapAmb' /proc/self/status");
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let sets = json!(["CAP_NET_BIND_SERVICE"]);
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        bundle.spec["process"]["capabilities"][set] = sets.clone();
    }
    let output = bundle.run();
    assert_eq!(output, "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n");
}

#[test]
fn limits_and_priorities_are_set() {
    // Of stat, the 19th field is the nice value and the 41st the policy (proc_pid_stat(5)).
    let mut bundle = Bundle::new(
        "ulimit -n; cat /proc/self/oom_score_adj; cat /proc/self/personality; ionice; cut -d' ' -f19,41 /proc/self/stat",
    );
    bundle.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 77, "soft": 66 }]);
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    bundle.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    bundle.spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    bundle.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    let output = bundle.run();
    assert_eq!(output.lines().collect::<Vec<_>>(), ["66", "500", "00000008", "idle", "5 3"]);
}

#[test]
fn memory_comes_from_the_nodes_that_are_named() {
    let mut bundle = Bundle::new("grep -c bind.*:0 /proc/self/numa_maps");
    bundle.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    let mappings: u32 = bundle.run().trim().parse().unwrap();
    assert!(mappings > 0);
    bundle.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "1000" });
    let output = bundle.run_any();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("memory policy"), "{output:?}");
}

#[test]
fn a_limit_that_may_not_be_raised_is_a_warning_and_no_failure() {
    let mut bundle = Bundle::new("echo runs");
    bundle.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_MEMLOCK", "hard": u64::MAX, "soft": u64::MAX }]);
    bundle.spec["process"]["oomScoreAdj"] = json!(-1000);
    assert_eq!(bundle.run(), "runs\n");
}

#[test]
fn a_read_only_root_is_read_only() {
    let mut bundle = Bundle::new("touch /x 2>&1; touch /dev/shm/x && echo fine");
    bundle.spec["root"]["readonly"] = json!(true);
    let output = bundle.run();
    assert!(output.contains("Read-only file system") && output.contains("fine"), "{output}");
}

#[test]
fn what_is_masked_is_empty_and_what_is_read_only_cannot_be_written() {
    let mut bundle =
        Bundle::new("cat /secret /hidden/* 2>/dev/null; ls -A /hidden; touch /kept/x 2>&1; cat /kept/file");
    let rootfs = bundle.rootfs();
    for directory in ["hidden", "kept"] {
        std::fs::create_dir(rootfs.join(directory)).unwrap();
        std::fs::write(rootfs.join(directory).join("file"), "content").unwrap();
    }
    std::fs::write(rootfs.join("secret"), "secret").unwrap();
    bundle.spec["linux"]["maskedPaths"] = json!(["/secret", "/hidden", "/nosuch"]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/kept", "/nosuch"]);
    let output = bundle.run();
    assert!(output.contains("Read-only") && output.ends_with("content"), "{output}");
    assert!(!output.contains("secret"), "{output}");
}

#[test]
fn devices_are_made_with_their_mode_and_owner() {
    let mut bundle = Bundle::new(
        "stat -c '%A %u %t,%T' /dev/fuse /dev/null; readlink /dev/ptmx; echo x > /dev/null && echo written",
    );
    bundle.spec["linux"]["devices"] = json!([{ "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 }, { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6 }]);
    let output = bundle.run();
    assert_eq!(output.lines().collect::<Vec<_>>(), ["crw-r----- 5 a,e5", "crw-rw-rw- 0 1,3", "pts/ptmx", "written"]);
}

#[test]
fn sysctls_of_its_own_namespaces_are_set_and_others_refused() {
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni");
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "123" });
    assert_eq!(bundle.run(), "1\n123\n");
    bundle.spec["linux"]["sysctl"] = json!({ "kernel.panic": "1" });
    let output = bundle.run_any();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not in a separate kernel namespace"));
}

#[test]
fn a_container_cannot_have_the_runtime_execute_itself() {
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["/proc/self/exe"]);
    assert_eq!(bundle.run_any().status.code(), Some(126));
}

#[test]
fn preserved_descriptors_go_on_and_no_others() {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let bundle = Bundle::new("ls /proc/self/fd | sort -n | tr '\\n' ' '; cat <&3");
    bundle.save();
    let file = std::fs::File::open(bundle.path("config.json")).unwrap();
    let mut command = bundle.command(&["run", "--preserve-fds", "1", &bundle.id]);
    let raw = file.as_raw_fd();
    // SAFETY: dup2 is safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let placed = libc::dup2(raw, 100) == 100 && libc::dup2(100, 3) == 3 && libc::dup2(100, 9) == 9;
            if placed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.starts_with("0 1 2 3 "), "{output}");
    assert!(!output.split('{').next().unwrap().contains('9'), "{output}");
    assert!(output.contains("ociVersion"));
    let refused = bundle.fails(&["run", "--preserve-fds", "40", &bundle.id]);
    assert!(refused.contains("--preserve-fds"), "{refused}");
}

#[test]
fn sockets_that_were_handed_to_somebody_else_are_not_passed_on() {
    let bundle = Bundle::new("ls /proc/self/fd | sort -n | tr '\\n' ' '; echo $LISTEN_FDS");
    bundle.save();
    for count in ["1", "3", "4294967295"] {
        // That of whoever started the test, or nobody's.
        for pid in [Some(std::process::id().to_string()), None] {
            let mut command = bundle.command(&["run", &bundle.id]);
            command.env("LISTEN_FDS", count);
            pid.map(|pid| command.env("LISTEN_PID", pid));
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            // The last is that of the listing.
            assert!(matches!(text.trim(), "0 1 2 3" | "0 1 2"), "{text} {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn sockets_from_systemd_are_passed_on() {
    let bundle = Bundle::new("echo $LISTEN_FDS $LISTEN_PID; cat <&3");
    bundle.save();
    // exec keeps the number of the process, which systemd puts there.
    let run = |fds: &str| {
        let command = bundle.command(&["run", &bundle.id]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let script = format!(
            "exec 3<'{}'; export LISTEN_FDS={fds} LISTEN_PID=$$; exec {line}",
            bundle.path("config.json").display()
        );
        let directory = command.get_current_dir().unwrap();
        std::process::Command::new("sh").args(["-c", &script]).current_dir(directory).output().unwrap()
    };
    let output = run("1");
    let output = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.starts_with("1 1\n{"), "{output}");
    let refused = String::from_utf8(run("30").stderr).unwrap();
    assert!(refused.contains("LISTEN_FDS=30"), "{refused}");
}

#[test]
fn hooks_run_in_their_order_with_the_state_on_standard_input() {
    let mut bundle = Bundle::new("echo program; cat /from-hook");
    let log = bundle.path("hooks.log");
    let hook = |name: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat | tr -d ' ' | grep -o '\"status\":\"[a-z]*\"') >> {}", log.display())], "env": ["PATH=/usr/bin:/bin"] });
    bundle.spec["hooks"] = json!({
        "prestart": [hook("prestart")], "createRuntime": [hook("createRuntime")],
        "createContainer": [hook("createContainer")], "poststart": [hook("poststart")], "poststop": [hook("poststop")],
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /from-hook"] }],
    });
    let output = bundle.run();
    assert!(output.starts_with("program\n{") && output.contains("\"status\":\"created\""), "{output}");
    let log = std::fs::read_to_string(log).unwrap();
    let names: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"], "{log}");
    assert!(log.contains("createContainer \"status\":\"creating\""), "{log}");
    assert!(log.contains("poststop \"status\":\"stopped\""), "{log}");
}

#[test]
fn a_failing_hook_stops_the_start_and_leaves_nothing() {
    let mut bundle = Bundle::new("echo never");
    bundle.spec["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo because; exit 3"] }] });
    let output = bundle.run_any();
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("createRuntime hook #0") && text.contains("because"), "{text}");
    assert!(!bundle.path("state").join(&bundle.id).exists());
}

/// What a shell and perl need.
const USUAL: &str = "access arch_prctl brk capget capset chdir clock_gettime clone clone3 close dup dup2 dup3 execve exit \
    exit_group faccessat faccessat2 fcntl fork fstat futex getcwd getdents64 getegid geteuid getgid getpgrp getpid getppid \
    getrandom gettimeofday getuid ioctl lseek lstat mmap mprotect munmap newfstatat open openat pipe pipe2 poll ppoll prctl \
    pread64 prlimit64 read readlink readlinkat rseq rt_sigaction rt_sigprocmask rt_sigreturn select sendmsg set_robust_list \
    set_tid_address sigaltstack stat statx sysinfo time umask uname vfork wait4 write";

/// Which libraries take for "not there", where they take EPERM for an error.
#[test]
fn what_is_newer_than_the_profile_is_not_there() {
    let made = |number: &str| format!("/usr/bin/perl -e 'syscall({number}, 0, 0, 0, 0, 0); print $!+0, \"\\n\"'");
    // Beyond all that are listed, in the tables of two architectures; and what the profile does not list.
    let script = [made("4000"), made("0x40000000 + 4000"), made("161")].join("; ");
    let answers = |default: &str, errno: u32| {
        let mut bundle = Bundle::new(&script);
        for host in ["/usr", "/lib", "/lib64"] {
            bundle.mount(host, "bind", host.as_ref(), &["rbind", "ro"]);
        }
        let allowed: Vec<&str> = USUAL.split_whitespace().collect();
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": default, "defaultErrnoRet": errno,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": allowed, "action": "SCMP_ACT_ALLOW" }],
        });
        bundle.run()
    };
    assert_eq!(answers("SCMP_ACT_ERRNO", 1), "38\n38\n1\n");
    assert_eq!(answers("SCMP_ACT_ERRNO", 13), "38\n38\n13\n");
}

#[test]
fn seccomp_filters_system_calls_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /made 2>&1; echo after; grep Seccomp: /proc/self/status");
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 },
                { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        let output = bundle.run();
        assert!(output.contains("Read-only file system") && output.contains("after"), "{output}");
        assert!(output.contains("Seccomp:\t2"), "{output}");
        assert!(!bundle.rootfs().join("made").exists());
    }
}
