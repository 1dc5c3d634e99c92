// The commands, each in a file of its name: its options, and what it does.
#pragma once
#include "host/commands/command_line.h"

namespace elbo {

Action run_command(Options&);
Action eval_command(Options&);
Action sample_command(Options&);
Action report_command(Options&);
Action bench_step_command(Options&);
Action bench_loss_command(Options&);
Action plan_command(Options&);
Action profile_command(Options&);
Action tune_command(Options&);
Action data_list_command(Options&);
Action data_verify_command(Options&);
Action schema_command(Options&);
Action devices_command(Options&);

}  // namespace elbo
