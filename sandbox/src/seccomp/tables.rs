//! System calls that a command may make without condition: Docker's default profile for its default capabilities.
//!
//! Names are moby's; numbers are the C library's where every C library has them, else the kernel's own tables. Calls with a
//! condition on their arguments are not here but in the parent module. Everything absent is denied.

macro_rules! numbers {
    ($($name:ident)*) => { &[$(libc::$name as u32),*] };
}

/// What x86_64 and aarch64 both have.
pub(super) const NATIVE: &[u32] = numbers! {
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
    SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat
    SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr
    SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid
    SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority
    SYS_getrandom SYS_getresgid SYS_getresuid SYS_get_robust_list SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt
    SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch
    SYS_io_cancel SYS_ioctl SYS_io_destroy SYS_io_getevents SYS_ioprio_get SYS_ioprio_set SYS_io_setup SYS_io_submit SYS_kill
    SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen
    SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create
    SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect
    SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl
    SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep
    SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free
    SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_pselect6
    SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg
    SYS_remap_file_pages SYS_removexattr SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
    SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
    SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg
    SYS_sendmsg SYS_sendto SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_set_robust_list SYS_setsid SYS_setsockopt SYS_set_tid_address
    SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair
    SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create
    SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime
    SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4
    SYS_waitid SYS_write SYS_writev SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_chroot
};

/// What only x86_64 has, or has by the same name in every C library; uretprobe came with Linux 6.11.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE_MORE: &[(u32, &str)] = &[(333, "io_pgetevents"), (335, "uretprobe")];
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE_OLD: &[u32] = numbers! {
    SYS_access SYS_alarm SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait
    SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_getrlimit SYS_get_thread_area
    SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink
    SYS_rename SYS_renameat SYS_rmdir SYS_select SYS_setrlimit SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink
    SYS_sync_file_range SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork SYS_arch_prctl SYS_modify_ldt
};

/// What aarch64 has without a name in every C library.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE_MORE: &[(u32, &str)] = &[
    (38, "renameat"),
    (84, "sync_file_range"),
    (163, "getrlimit"),
    (164, "setrlimit"),
    (292, "io_pgetevents"),
];
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE_OLD: &[u32] = &[];

/// Calls of Linux 6.5 to 6.13, which have one number on every architecture.
pub(super) const RECENT: &[(u32, &str)] = &[
    (451, "cachestat"),
    (452, "fchmodat2"),
    (453, "map_shadow_stack"),
    (454, "futex_wake"),
    (455, "futex_wait"),
    (456, "futex_requeue"),
    (457, "statmount"),
    (458, "listmount"),
    (462, "mseal"),
    (463, "setxattrat"),
    (464, "getxattrat"),
    (465, "listxattrat"),
    (466, "removexattrat"),
];

/// 64-bit time for 32-bit programs, same on each such architecture.
pub(super) const TIME64: &str = "
    clock_gettime64=403 clock_adjtime64=405 clock_getres_time64=406 clock_nanosleep_time64=407 timer_gettime64=408
    timer_settime64=409 timerfd_gettime64=410 timerfd_settime64=411 utimensat_time64=412 pselect6_time64=413 ppoll_time64=414
    io_pgetevents_time64=416 recvmmsg_time64=417 mq_timedsend_time64=418 mq_timedreceive_time64=419 semtimedop_time64=420
    rt_sigtimedwait_time64=421 futex_time64=422 sched_rr_get_interval_time64=423
";

/// 32-bit programs on x86_64. Their sockets come by socketcall too, whose arguments are behind a pointer.
#[cfg(any(target_arch = "x86_64", test))]
pub(super) const I386: &str = "
    restart_syscall=0 exit=1 fork=2 read=3 write=4 open=5 close=6 waitpid=7 creat=8 link=9 unlink=10 execve=11 chdir=12 time=13
    mknod=14 chmod=15 lchown=16 lseek=19 getpid=20 setuid=23 getuid=24 ptrace=26 alarm=27 pause=29 utime=30 access=33 sync=36
    kill=37 rename=38 mkdir=39 rmdir=40 dup=41 pipe=42 times=43 brk=45 setgid=46 getgid=47 geteuid=49 getegid=50 ioctl=54
    fcntl=55 setpgid=57 umask=60 chroot=61 dup2=63 getppid=64 getpgrp=65 setsid=66 setreuid=70 setregid=71 setrlimit=75
    getrlimit=76 getrusage=77 gettimeofday=78 getgroups=80 setgroups=81 select=82 symlink=83 readlink=85 mmap=90 munmap=91
    truncate=92 ftruncate=93 fchmod=94 fchown=95 getpriority=96 setpriority=97 statfs=99 fstatfs=100 socketcall=102
    setitimer=104 getitimer=105 stat=106 lstat=107 fstat=108 wait4=114 sysinfo=116 ipc=117 fsync=118 sigreturn=119 uname=122
    modify_ldt=123 adjtimex=124 mprotect=125 sigprocmask=126 getpgid=132 fchdir=133 setfsuid=138 setfsgid=139 _llseek=140
    getdents=141 _newselect=142 flock=143 msync=144 readv=145 writev=146 getsid=147 fdatasync=148 mlock=150 munlock=151
    mlockall=152 munlockall=153 sched_setparam=154 sched_getparam=155 sched_setscheduler=156 sched_getscheduler=157
    sched_yield=158 sched_get_priority_max=159 sched_get_priority_min=160 sched_rr_get_interval=161 nanosleep=162 mremap=163
    setresuid=164 getresuid=165 poll=168 setresgid=170 getresgid=171 prctl=172 rt_sigreturn=173 rt_sigaction=174
    rt_sigprocmask=175 rt_sigpending=176 rt_sigtimedwait=177 rt_sigqueueinfo=178 rt_sigsuspend=179 pread64=180 pwrite64=181
    chown=182 getcwd=183 capget=184 capset=185 sigaltstack=186 sendfile=187 vfork=190 ugetrlimit=191 mmap2=192 truncate64=193
    ftruncate64=194 stat64=195 lstat64=196 fstat64=197 lchown32=198 getuid32=199 getgid32=200 geteuid32=201 getegid32=202
    setreuid32=203 setregid32=204 getgroups32=205 setgroups32=206 fchown32=207 setresuid32=208 getresuid32=209 setresgid32=210
    getresgid32=211 chown32=212 setuid32=213 setgid32=214 setfsuid32=215 setfsgid32=216 mincore=218 madvise=219 getdents64=220
    fcntl64=221 gettid=224 readahead=225 setxattr=226 lsetxattr=227 fsetxattr=228 getxattr=229 lgetxattr=230 fgetxattr=231
    listxattr=232 llistxattr=233 flistxattr=234 removexattr=235 lremovexattr=236 fremovexattr=237 tkill=238 sendfile64=239
    futex=240 sched_setaffinity=241 sched_getaffinity=242 set_thread_area=243 get_thread_area=244 io_setup=245 io_destroy=246
    io_getevents=247 io_submit=248 io_cancel=249 fadvise64=250 exit_group=252 epoll_create=254 epoll_ctl=255 epoll_wait=256
    remap_file_pages=257 set_tid_address=258 timer_create=259 timer_settime=260 timer_gettime=261 timer_getoverrun=262
    timer_delete=263 clock_gettime=265 clock_getres=266 clock_nanosleep=267 statfs64=268 fstatfs64=269 tgkill=270 utimes=271
    fadvise64_64=272 mq_open=277 mq_unlink=278 mq_timedsend=279 mq_timedreceive=280 mq_notify=281 mq_getsetattr=282 waitid=284
    ioprio_set=289 ioprio_get=290 inotify_init=291 inotify_add_watch=292 inotify_rm_watch=293 openat=295 mkdirat=296 mknodat=297
    fchownat=298 futimesat=299 fstatat64=300 unlinkat=301 renameat=302 linkat=303 symlinkat=304 readlinkat=305 fchmodat=306
    faccessat=307 pselect6=308 ppoll=309 set_robust_list=311 get_robust_list=312 splice=313 sync_file_range=314 tee=315
    vmsplice=316 getcpu=318 epoll_pwait=319 utimensat=320 signalfd=321 timerfd_create=322 eventfd=323 fallocate=324
    timerfd_settime=325 timerfd_gettime=326 signalfd4=327 eventfd2=328 epoll_create1=329 dup3=330 pipe2=331 inotify_init1=332
    preadv=333 pwritev=334 rt_tgsigqueueinfo=335 recvmmsg=337 fanotify_mark=339 prlimit64=340 name_to_handle_at=341
    clock_adjtime=343 syncfs=344 sendmmsg=345 process_vm_readv=347 process_vm_writev=348 sched_setattr=351 sched_getattr=352
    renameat2=353 seccomp=354 getrandom=355 memfd_create=356 execveat=358 socketpair=360 bind=361 connect=362 listen=363
    accept4=364 getsockopt=365 setsockopt=366 getsockname=367 getpeername=368 sendto=369 sendmsg=370 recvfrom=371 recvmsg=372
    shutdown=373 membarrier=375 mlock2=376 copy_file_range=377 preadv2=378 pwritev2=379 pkey_mprotect=380 pkey_alloc=381
    pkey_free=382 statx=383 io_pgetevents=385 rseq=386 semget=393 semctl=394 shmget=395 shmctl=396 shmat=397 shmdt=398
    msgget=399 msgsnd=400 msgrcv=401 msgctl=402 pidfd_send_signal=424 pidfd_open=434 close_range=436 openat2=437 faccessat2=439
    epoll_pwait2=441 landlock_create_ruleset=444 landlock_add_rule=445 landlock_restrict_self=446 memfd_secret=447
    process_mrelease=448 futex_waitv=449
";

/// 32-bit programs on aarch64; the last three are ARM's private calls.
#[cfg(any(target_arch = "aarch64", test))]
pub(super) const ARM: &str = "
    restart_syscall=0 exit=1 fork=2 read=3 write=4 open=5 close=6 creat=8 link=9 unlink=10 execve=11 chdir=12 mknod=14 chmod=15
    lchown=16 lseek=19 getpid=20 setuid=23 getuid=24 ptrace=26 pause=29 access=33 sync=36 kill=37 rename=38 mkdir=39 rmdir=40
    dup=41 pipe=42 times=43 brk=45 setgid=46 getgid=47 geteuid=49 getegid=50 ioctl=54 fcntl=55 setpgid=57 umask=60 chroot=61
    dup2=63 getppid=64 getpgrp=65 setsid=66 setreuid=70 setregid=71 setrlimit=75 getrusage=77 gettimeofday=78 getgroups=80
    setgroups=81 symlink=83 readlink=85 munmap=91 truncate=92 ftruncate=93 fchmod=94 fchown=95 getpriority=96 setpriority=97
    statfs=99 fstatfs=100 setitimer=104 getitimer=105 stat=106 lstat=107 fstat=108 wait4=114 sysinfo=116 fsync=118 sigreturn=119
    uname=122 adjtimex=124 mprotect=125 sigprocmask=126 getpgid=132 fchdir=133 setfsuid=138 setfsgid=139 _llseek=140
    getdents=141 _newselect=142 flock=143 msync=144 readv=145 writev=146 getsid=147 fdatasync=148 mlock=150 munlock=151
    mlockall=152 munlockall=153 sched_setparam=154 sched_getparam=155 sched_setscheduler=156 sched_getscheduler=157
    sched_yield=158 sched_get_priority_max=159 sched_get_priority_min=160 sched_rr_get_interval=161 nanosleep=162 mremap=163
    setresuid=164 getresuid=165 poll=168 setresgid=170 getresgid=171 prctl=172 rt_sigreturn=173 rt_sigaction=174
    rt_sigprocmask=175 rt_sigpending=176 rt_sigtimedwait=177 rt_sigqueueinfo=178 rt_sigsuspend=179 pread64=180 pwrite64=181
    chown=182 getcwd=183 capget=184 capset=185 sigaltstack=186 sendfile=187 vfork=190 ugetrlimit=191 mmap2=192 truncate64=193
    ftruncate64=194 stat64=195 lstat64=196 fstat64=197 lchown32=198 getuid32=199 getgid32=200 geteuid32=201 getegid32=202
    setreuid32=203 setregid32=204 getgroups32=205 setgroups32=206 fchown32=207 setresuid32=208 getresuid32=209 setresgid32=210
    getresgid32=211 chown32=212 setuid32=213 setgid32=214 setfsuid32=215 setfsgid32=216 getdents64=217 mincore=219 madvise=220
    fcntl64=221 gettid=224 readahead=225 setxattr=226 lsetxattr=227 fsetxattr=228 getxattr=229 lgetxattr=230 fgetxattr=231
    listxattr=232 llistxattr=233 flistxattr=234 removexattr=235 lremovexattr=236 fremovexattr=237 tkill=238 sendfile64=239
    futex=240 sched_setaffinity=241 sched_getaffinity=242 io_setup=243 io_destroy=244 io_getevents=245 io_submit=246
    io_cancel=247 exit_group=248 epoll_create=250 epoll_ctl=251 epoll_wait=252 remap_file_pages=253 set_tid_address=256
    timer_create=257 timer_settime=258 timer_gettime=259 timer_getoverrun=260 timer_delete=261 clock_gettime=263
    clock_getres=264 clock_nanosleep=265 statfs64=266 fstatfs64=267 tgkill=268 utimes=269 arm_fadvise64_64=270 mq_open=274
    mq_unlink=275 mq_timedsend=276 mq_timedreceive=277 mq_notify=278 mq_getsetattr=279 waitid=280 bind=282 connect=283
    listen=284 accept=285 getsockname=286 getpeername=287 socketpair=288 send=289 sendto=290 recv=291 recvfrom=292 shutdown=293
    setsockopt=294 getsockopt=295 sendmsg=296 recvmsg=297 semop=298 semget=299 semctl=300 msgsnd=301 msgrcv=302 msgget=303
    msgctl=304 shmat=305 shmdt=306 shmget=307 shmctl=308 semtimedop=312 ioprio_set=314 ioprio_get=315 inotify_init=316
    inotify_add_watch=317 inotify_rm_watch=318 openat=322 mkdirat=323 mknodat=324 fchownat=325 futimesat=326 fstatat64=327
    unlinkat=328 renameat=329 linkat=330 symlinkat=331 readlinkat=332 fchmodat=333 faccessat=334 pselect6=335 ppoll=336
    set_robust_list=338 get_robust_list=339 splice=340 sync_file_range2=341 tee=342 vmsplice=343 getcpu=345 epoll_pwait=346
    utimensat=348 signalfd=349 timerfd_create=350 eventfd=351 fallocate=352 timerfd_settime=353 timerfd_gettime=354
    signalfd4=355 eventfd2=356 epoll_create1=357 dup3=358 pipe2=359 inotify_init1=360 preadv=361 pwritev=362
    rt_tgsigqueueinfo=363 recvmmsg=365 accept4=366 fanotify_mark=368 prlimit64=369 name_to_handle_at=370 clock_adjtime=372
    syncfs=373 sendmmsg=374 process_vm_readv=376 process_vm_writev=377 sched_setattr=380 sched_getattr=381 renameat2=382
    seccomp=383 getrandom=384 memfd_create=385 execveat=387 membarrier=389 mlock2=390 copy_file_range=391 preadv2=392
    pwritev2=393 pkey_mprotect=394 pkey_alloc=395 pkey_free=396 statx=397 rseq=398 io_pgetevents=399 pidfd_send_signal=424
    pidfd_open=434 close_range=436 openat2=437 faccessat2=439 epoll_pwait2=441 landlock_create_ruleset=444 landlock_add_rule=445
    landlock_restrict_self=446 memfd_secret=447 process_mrelease=448 futex_waitv=449 breakpoint=983041 cacheflush=983042
    set_tls=983045
";
