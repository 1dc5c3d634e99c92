// The report as one HTML page that needs nothing but itself.
#pragma once
#include <string>

#include "host/report/report.h"

namespace elbo {

std::string report_page(const ReportData&);

}  // namespace elbo
