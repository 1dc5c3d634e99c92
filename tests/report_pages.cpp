// Writes the pages that report_browser_test.py opens: report_pages FOLDER.
#include <cmath>
#include <string>

#include "host/report/report.h"
#include "tests/report_samples.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string folder = argv[1];
  using elbo::made_up_report;
  elbo::write_report(made_up_report(2, 12), folder + "/two");
  elbo::write_report(made_up_report(3, 50), folder + "/three");
  elbo::write_report(made_up_report(20, 2000), folder + "/twenty");
  elbo::write_report(made_up_report(8, 1), folder + "/one-epoch");
  elbo::write_report(made_up_report(2, 100000), folder + "/thinned");

  elbo::ReportData odd = made_up_report(3, 9);
  odd.name = "<b>an unusually long name & one that does not break anywhere: " + std::string(80, 'x');
  odd.command = "elbo run " + std::string(300, 'y');
  odd.class_names[0] = "</script><b>\"'&";
  odd.epochs[4].test.elbo = odd.epochs[8].train.kl = std::nan("");
  odd.means[5] = std::nanf("");
  elbo::write_report(odd, folder + "/odd");
}
