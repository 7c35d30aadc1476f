package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	nodestage "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	heartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat-with-lease"
	podstage "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
	"sigs.k8s.io/kwok/pkg/config"
	"sigs.k8s.io/kwok/pkg/kwok/cmd"
	"sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/signals"
)

// kwok does what kwok's own main does.
func kwok() int {
	// cobra adds the global flag set to every command, and the Kubernetes
	// packages put a --version there that is no bool, which kwok's cannot bear.
	pflag.CommandLine = pflag.NewFlagSet("kwok", pflag.ContinueOnError)
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.Usage = func() {}
	ctx, logger := log.InitFlags(signals.SetupSignalContext(), flags)
	ctx, err := config.InitFlags(ctx, flags)
	if err != nil {
		logger.Error("reading flags", "err", err)
		return 1
	}
	command := cmd.NewCommand(ctx)
	command.PersistentFlags().AddFlagSet(flags)
	if err := command.ExecuteContext(ctx); err != nil {
		logger.Error("running kwok", "err", err)
		return 1
	}
	return 0
}

// kwokStages prints how fake nodes and pods live: kwok reads it with --config,
// because it has none built in.
func kwokStages() int {
	fmt.Println(strings.Join([]string{
		nodestage.DefaultNodeInit,
		heartbeat.DefaultNodeHeartbeatWithLease,
		podstage.DefaultPodReady,
		podstage.DefaultPodComplete,
		podstage.DefaultPodDelete,
	}, "\n---\n"))
	return 0
}
